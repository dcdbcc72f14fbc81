"""The command line: one command per verb. It reads a recipe, calls the verb and prints; it computes nothing.

Nothing heavy is imported at the top: `--help` and `list` answer without loading torch.
"""

# Long because every command's arguments are declared here, once, with the words that --help prints.

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from unforgotten import __version__, errors, registry
from unforgotten.errors import of_user, plain
from unforgotten.runs import bars, safe_text, terminate, trust, user_code, variables


def _set(variable: str) -> Any:
    """What a flag of trust does: it sets its variable for this command and what it starts, and puts back the old."""

    def callback(ctx: typer.Context, given: Any) -> Any:
        before = os.environ.get(variable)
        if given and not ctx.resilient_parsing:
            names = [*(before or "").split(","), *given] if isinstance(given, (tuple, list)) else ["1"]
            os.environ[variable] = ",".join(filter(None, names))
            ctx.call_on_close(lambda: _put_back(variable, before))
        return given

    return callback


def _put_back(variable: str, before: str | None) -> None:
    if before is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = before


def _trust() -> list[Any]:
    """The flags that every command takes: whom to trust with what."""
    flags = typer.Typer(add_completion=False)

    @flags.command()
    def _(
        no_user_code: Annotated[
            bool,
            typer.Option(
                "--no-user-code",
                callback=_set(user_code.NO_CODE),
                help="Never load a class from a file (./mine.py:Mine).",
            ),
        ] = False,
        trust_recipe: Annotated[
            bool,
            typer.Option(
                "--trust-recipe",
                callback=_set(trust.TRUST),
                help="Trust the recipe in a run folder like your own.",
            ),
        ] = False,
        allow_env: Annotated[
            list[str] | None,
            typer.Option(
                "--allow-env",
                metavar="NAME",
                callback=_set(variables.ALLOWED),
                help="An environment variable that recipes may read, besides UNFORGOTTEN_*. Repeatable.",
            ),
        ] = None,
    ) -> None: ...

    options = [
        p for p in typer.main.get_command(flags).params if p.name in ("no_user_code", "trust_recipe", "allow_env")
    ]
    for param in options:
        param.expose_value = False
    return options


class Trusting(TyperGroup):
    """A group whose commands all take the flags of trust."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, with those flags."""
        command = super().get_command(ctx, cmd_name)
        if command is not None and not any(p.name == "no_user_code" for p in command.params):
            command.params += _trust()
        return command


class Commands(Trusting):
    """Every command runs through here: the one place where an error of the package becomes a line and an exit code."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.params = [*self.params, *_trust()]

    def invoke(self, ctx: Any) -> Any:
        """Run the command; 2 after an error that the user can mend, 130 after Ctrl-C, 143 after SIGTERM."""
        try:
            with terminate.handled(), _progress():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            # A second one does not wait; and while Python itself ends, it would end the process by the signal.
            signal.signal(signal.SIGINT, lambda *_: os._exit(130))
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
            print("\nStopped. Give the same command again: it goes on from where it was.", file=sys.stderr)
            raise typer.Exit(130) from None
        except errors.Terminated as stop:
            print(f"\n{stop}", file=sys.stderr)
            raise typer.Exit(errors.TERMINATED) from None
        except BaseException as error:
            # An error of a user's own class first: it may be one that the lines below take for something else.
            closed = isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError)
            if closed and of_user(error) is None:
                # Whoever read what we print has heard enough, such as `head`; Rich makes a SystemExit of it.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                raise typer.Exit(2) from None
            if (message := plain(error)) is None:
                raise
            print(f"error: {safe_text.block(variables.hidden(message))}", file=sys.stderr)
            raise typer.Exit(2) from None


def _progress() -> contextlib.AbstractContextManager[None]:
    """Bars on a terminal. In a file or a pipe, a line wherever nothing else was said for some seconds."""
    return contextlib.nullcontext() if sys.stderr.isatty() else bars.in_lines(_say, "starting")


app = typer.Typer(
    cls=Commands,
    name="unforgotten",
    help="Fine-tune on anyone's data without forgetting safety.",
    no_args_is_help=True,
    add_completion=False,
    # A fault of ours is shown as Python shows it, without local variables, which may hold a user's data.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console entry point."""
    terminate.from_the_start()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot write a letter gets its escape, not an error
            with contextlib.suppress(OSError):  # a pipe in the place of a file cannot be asked where it is
                stream.reconfigure(errors="backslashreplace")
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        _print(f"unforgotten {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_(
    room: Annotated[
        str | None, typer.Argument(help="methods, datasets, judges or recipes. Default: the first three.")
    ] = None,
) -> None:
    """List methods, datasets and judges with what each does, or the recipes that ship with the package."""
    from unforgotten.errors import UnknownName
    from unforgotten.recipe.read import shipped
    from unforgotten.report.table import Cell, Table, name, prose
    from unforgotten.report.writers import terminal
    from unforgotten.runs import field_docs

    if room == "recipes":
        claims = {recipe: file.read_text(encoding="utf-8").partition("\n")[0] for recipe, file in shipped().items()}
        rows = [[Cell(recipe), Cell(claim.lstrip("# "))] for recipe, claim in claims.items()]
        terminal.show(Table([name("recipe"), prose("what it does")], rows))
        return
    if room is not None and room not in registry.ROOMS:
        raise UnknownName("room", room, (*registry.ROOMS, "recipes"))
    for each in (room,) if room else registry.ROOMS:
        rows = []
        for component in registry.names(each):
            cls: Any = registry.load(each, component)
            claim, facts = field_docs.claim(cls), ""
            if each == "methods":  # the papers are among the facts
                claim = claim.partition(" [")[0]
                facts = " · ".join(f"{what} {fact}" for what, fact in cls.facts().items())
            rows.append([Cell(component), Cell(claim, brief=facts)])
        terminal.show(Table([name(each.removesuffix("s")), prose("what it does")], rows))
        _print("")


RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a shipped recipe.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a key of the recipe: --set training.num_train_epochs=1. Repeatable.",
    ),
]
MethodOption = Annotated[str | None, typer.Option("--method", help="Short for --set method=…")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Short for --set seed=…")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the work, time, memory and downloads. Do nothing.")
]
OutOption = Annotated[str | None, typer.Option("--out", help="Folder for the run folders.")]


@app.command()
def align(
    recipe: RecipeArgument,
    set_: SetOption = None,
    seed: SeedOption = None,
    out: OutOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Align a base model on the recipe's safety data. An instruct model needs no alignment. Prints the weights."""
    from unforgotten.verbs import align as verb

    parsed = _recipe(recipe, set_, seed=seed, out=out)
    if dry_run:
        return _plan(parsed, "align")
    where = verb.align(parsed, _say)
    _print(where.full or where.adapter)


@app.command()
def finetune(
    recipe: RecipeArgument,
    method: MethodOption = None,
    audited: Annotated[
        str | None,
        typer.Option(
            "--audited", help="File from `data audit --out`: train on the rows that it judged, and only if they passed."
        ),
    ] = None,
    set_: SetOption = None,
    seed: SeedOption = None,
    out: OutOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Fine-tune the aligned model on the user's rows, with a method that preserves safety. Prints the run folder."""
    from unforgotten.verbs.finetune import finetune as verb

    parsed = _recipe(recipe, set_, method=method, seed=seed, out=out)
    if dry_run:
        return _plan(parsed, "finetune")
    _print(verb.finetune(parsed, _say, audited=audited))


@app.command()
def synthesize(recipe: RecipeArgument, set_: SetOption = None, seed: SeedOption = None, out: OutOption = None) -> None:
    """Let the aligned model write safety data, if there is none to replay (GR-SAP). Prints the file."""
    from unforgotten.verbs.synthesize import synthesize as verb

    _print(verb.synthesize(_recipe(recipe, set_, seed=seed, out=out), _say))


@app.command()
def evaluate(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="TARGET…", help="Recipes (their runs), run folders, model folders or Hub ids."),
    ],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="Recipe whose `evaluate:` is used. Run folders and recipes use their own."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", help="Compare prompt by prompt with `aligned`, `base`, a run or model folder, or a Hub id."
        ),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option("--gate", help="Limits that the model must keep: max_asr=5,max_refusal_rise=5,max_utility_loss=3"),
    ] = None,
    method: MethodOption = None,
    set_: SetOption = None,
    seed: SeedOption = None,
    out: OutOption = None,
) -> None:
    """Measure attack success rate (ASR), over-refusal and utility, with 95 % intervals. Prints a table.

    With --gate, exit code 0 means that all limits hold, 3 that one does not, and 4 that there were too few prompts to
    decide. 2 is an error, as in every command.
    """
    from unforgotten.evaluation import gate as gates
    from unforgotten.report import text as report
    from unforgotten.runs import results
    from unforgotten.verbs import gate as contrasted
    from unforgotten.verbs.evaluate import evaluate as verb

    given = {"method": method, "seed": seed, "out": out}
    limits = None if gate is None else gates.parse(gate)
    whose = None if recipe is None else _recipe(recipe, set_, **given)
    if limits is None and against is None:
        report.show(verb.evaluate(targets, whose, _options_of(set_, given), _say))
        return
    compared = contrasted.against_all(targets, against, limits, whose, _options_of(set_, given), _say)
    report.show([row for rows, _, _ in compared for row in rows])
    for target, (rows, differ, decision) in zip(targets, compared, strict=True):
        if len(targets) > 1:
            _print(f"{target}:")
        report.show_contrast(differ, called=results.words_of(rows))
        if decision is not None:
            _print(*decision.lines)
            _print(f"gate: {decision.outcome}" if len(targets) == 1 else f"gate of {target}: {decision.outcome}")
    if decisions := [decision for _, _, decision in compared if decision is not None]:
        outcome = gates.worst(decisions)
        if len(targets) > 1:
            _print(f"gate: {outcome}")
        raise typer.Exit(gates.EXIT_CODES[outcome])


@app.command()
def judge(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Folders that evaluate or compare wrote.")],
    judges: Annotated[
        list[str],
        typer.Option("--judge", help="A judge. Repeatable: with several, the table shows how far they agree."),
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="JUDGE.FIELD=VALUE", help="A setting of a judge: --set keywords.list=xstest. Repeatable."
        ),
    ] = None,
) -> None:
    """Judge the saved replies of runs with other judges. Nothing is generated. Prints a table."""
    from unforgotten.report import text as report
    from unforgotten.verbs import judge as verb

    report.show(verb.judge(runs, _judges(judges, set_), _say))


@app.command()
def compare(
    recipe: RecipeArgument,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Number of seeds: 0 to N−1.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Runs at the same time, instead of compare.jobs. With several GPUs, each run has one.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="This command is the I-th of N on one disk: --shard 1/4 to --shard 4/4."
        ),
    ] = None,
    set_: SetOption = None,
    out: OutOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Run the recipe's grid of methods, poison ratios, tasks and seeds; print one table and write a page.

    Finished runs are not repeated, and a failed run does not stop the others. Several commands may work on one grid,
    also on several machines with one disk. With --shard, a command does not wait for the others.
    """
    from unforgotten.errors import Unfinished
    from unforgotten.report import text as report
    from unforgotten.report.page.page import page
    from unforgotten.runs import results
    from unforgotten.verbs.compare import compare as verb

    parsed = _seeded(_recipe(recipe, set_, out=out), seeds)
    if dry_run:
        return _plan(parsed, "compare")
    try:
        folder = verb.compare(parsed, _say, workers=workers, shard=_shard(shard))
    except Unfinished as error:
        if error.rows:
            report.show(error.rows, layout=verb.layout(parsed))
        raise
    if not (folder / "results.json").exists():
        return  # other shards are still at work
    report.show(results.read(folder / "results.json"), layout=verb.layout(parsed))
    _print(folder / "results.json", page(folder))


@app.command()
def sweep(
    recipe: RecipeArgument,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Short for --set sweep.trials=…")] = None,
    set_: SetOption = None,
    seed: SeedOption = None,
    out: OutOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the search space. Do nothing.")] = False,
) -> None:
    """Tune the method's hyperparameters: lowest ASR at preserved task accuracy, on prompts held out from the report.

    Prints the Pareto front, the chosen setting with its scores on held-out prompts, and the folder. The same command
    goes on after a kill, or with more trials.
    """
    from unforgotten.verbs.sweep import sweep as verb
    from unforgotten.verbs.sweep import text

    parsed = _recipe(recipe, set_, seed=seed, out=out, **{"sweep.trials": trials})
    if dry_run:
        _print(*verb.plan(parsed))
        return
    folder = verb.sweep(parsed, _say)
    text.show((folder / "README.md").read_text(encoding="utf-8"))
    _print(folder)


@app.command()
def demo(
    real: Annotated[
        bool,
        typer.Option("--real", help="SmolLM2 on SST-2 in place of the embedded world. Needs UNFORGOTTEN_DATA."),
    ] = False,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Number of seeds: 0 to N−1.")] = None,
    set_: SetOption = None,
    out: OutOption = None,
) -> None:
    """Run the demo in minutes: plain fine-tuning forgets to refuse, Dark Experience Replay (DER) less so.

    With --real, a real language model of 135 M parameters is aligned, fine-tuned and measured. This takes under an
    hour on two cores. Files are read from the folder that UNFORGOTTEN_DATA names.
    """
    from unforgotten.report import text as report
    from unforgotten.report.page.page import page
    from unforgotten.report.side_by_side import side_by_side
    from unforgotten.runs import results
    from unforgotten.verbs.compare import compare as verb

    recipe = _seeded(_recipe("real/demo" if real else "demo", set_, out=out), seeds)
    folder = verb.compare(recipe, _say)
    rows = results.read(folder / "results.json")
    report.show(rows)
    side_by_side(folder)
    _print(report.sentence(rows))
    _print(folder / "results.json", page(folder))


@app.command("report")
def report_(
    comparison: Annotated[str, typer.Argument(metavar="COMPARISON", help="Folder of a comparison or a run.")],
    out: Annotated[
        str | None,
        typer.Option("--out", help="HTML file to write, with figures/ and tables/ beside it. Default: in the folder."),
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Also write the figures as PNG.")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also write the figures as PDF.")] = False,
) -> None:
    """Write a comparison or a run as one HTML page, with its figures as SVG and its tables. Prints the page's path."""
    from pathlib import Path

    from unforgotten.report.page.page import page

    _print(page(Path(comparison), None if out is None else Path(out), png, pdf))


@app.command()
def repair(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="With --ladder: folder of a trained run, instead of --tuned.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="A method that edits weights: interpolate, safelora, safemerge or magmax."),
    ] = None,
    ladder: Annotated[
        bool,
        typer.Option("--ladder", help="Try repairs, the cheapest first, until one passes --gate on fresh prompts."),
    ] = False,
    gate: Annotated[
        str | None,
        typer.Option("--gate", help="With --ladder: the limits, such as max_asr=5,max_refusal_rise=5."),
    ] = None,
    aligned: Annotated[
        str | None, typer.Option("--aligned", help="The aligned model (θ_safe): weights, or an adapter on θ₀.")
    ] = None,
    tuned: Annotated[
        str | None,
        typer.Option("--tuned", help="The fine-tuned model (θ*): weights, or an adapter on θ_safe or on θ₀."),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="Folder to write. It must not exist yet.")] = None,
    unaligned_model: Annotated[
        str | None,
        typer.Option(
            "--unaligned-model",
            help="The model before alignment (θ₀): a folder or Hub id of weights. `interpolate` does without.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="With --ladder: recipe whose `evaluate:` and `repair:` are used."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="A setting of the method, or with --ladder of the recipe: --set repair.decisions=3. Repeatable.",
        ),
    ] = None,
    as_lora: Annotated[
        int | None,
        typer.Option(
            "--as-lora", min=1, help="Write the nearest LoRA adapter of this rank on θ_safe, instead of weights."
        ),
    ] = None,
) -> None:
    """Edit the weights of a fine-tuned model, one tensor at a time, without training. Prints the folder.

    With --ladder, edits and short trainings are tried in turn, and exit code 0 means that one passed the gate, 3 that
    none did, and 4 that there were too few prompts to decide.
    """
    from unforgotten.errors import RecipeError

    if ladder:
        _ladder(run, method, gate, aligned, tuned, out, unaligned_model, recipe, set_, as_lora)
    if run or gate or recipe:
        raise RecipeError("RUN, --gate and --recipe belong to `repair --ladder`. One edit takes --method and --tuned.")
    if method is None or aligned is None or tuned is None or out is None:
        raise RecipeError("`repair` needs --method, --aligned, --tuned and --out; or a run's folder and --ladder.")
    from unforgotten.verbs.repair import repair as verb

    spec = {"name": method, **_options_of(set_, {})}
    _print(
        verb.repair(
            spec,
            unaligned_model=unaligned_model,
            aligned=aligned,
            tuned=tuned,
            out=out,
            as_lora=as_lora,
            say=_say,
        )
    )


def _ladder(
    run: str | None,
    method: str | None,
    gate: str | None,
    aligned: str | None,
    tuned: str | None,
    out: str | None,
    unaligned_model: str | None,
    recipe: str | None,
    set_: list[str] | None,
    as_lora: int | None,
) -> None:
    from unforgotten.errors import RecipeError
    from unforgotten.verbs.repair import ladder_text
    from unforgotten.verbs.repair.ladder import ladder as climb

    if method or as_lora:
        raise RecipeError("--method and --as-lora are one edit's. The ladder's rungs are `repair:` of a recipe.")
    if gate is None or out is None:
        raise RecipeError("`repair --ladder` needs --gate, such as --gate max_asr=5, and --out.")
    repaired = climb(
        run,
        gate=gate,
        out=out,
        tuned=tuned,
        aligned=aligned,
        unaligned_model=unaligned_model,
        recipe=None if recipe is None else _recipe(recipe, set_),
        overrides=_options_of(set_, {}),
        say=_say,
    )
    from unforgotten.report.writers import terminal

    terminal.show(ladder_text.table(repaired))
    _print(ladder_text.sentence(repaired), repaired.model or repaired.folder, f"gate: {repaired.outcome}")
    raise typer.Exit(repaired.exit_code)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a trained run, or its recipe.")],
    form: Annotated[
        str, typer.Option("--as", help="adapter, stacked (one adapter on the public base model) or merged.")
    ],
    out: Annotated[str | None, typer.Option("--out", help="Folder to write. Default: RUN/exports/<form>.")] = None,
    max_rank: Annotated[
        int, typer.Option("--max-rank", min=1, help="Highest LoRA rank that your vLLM server accepts.")
    ] = 512,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype", help="Precision of merged weights: float32, bfloat16, float16, or auto (the base model's)."
        ),
    ] = "auto",
    push: Annotated[
        str | None, typer.Option("--push", metavar="OWNER/NAME", help="Upload the export to this Hub repository.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: make the repository private.")] = False,
) -> None:
    """Write a run's model for other tools to load and serve. Its greedy replies are checked. Prints the folder."""
    from unforgotten.verbs.export import export as verb

    exported = verb.export(run, form, out=out, max_rank=max_rank, dtype=dtype, push_to=push, private=private, say=_say)
    _print(exported.folder)
    _print(*exported.vllm.lines())
    if exported.address:
        _print(exported.address)


data_app = typer.Typer(cls=Trusting, help="Show, fix and audit data before training.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("show")
def data_show(
    file: Annotated[str, typer.Argument(help="A user's file: JSONL or JSON, chat, prompt/completion or Alpaca.")],
    model: Annotated[
        str, typer.Option("--model", help="Hub id, folder or `world`: its tokenizer and chat template are used.")
    ],
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Number of rows to show. All are counted.")] = 5,
    template: Annotated[str | None, typer.Option("--template", help="A Jinja chat template file.")] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=2, help="Length in tokens to which training cuts rows.")
    ] = None,
) -> None:
    """Print rows as training sees them, with the trained tokens in colour, and count what is cut or dropped."""
    from unforgotten.errors import DataError
    from unforgotten.models.chat.faults import with_rendering
    from unforgotten.models.chat.show import show
    from unforgotten.models.load import load_chat
    from unforgotten.recipe import data_sets as named
    from unforgotten.recipe.read import parse
    from unforgotten.verbs import align as stage

    try:
        user_rows, unread = named.read({"name": "jsonl", "path": file}, say=_say), None
    except DataError as error:
        if not error.rows:
            raise
        user_rows, unread = [], error
    chat = load_chat(stage.base_of(parse({"model": model}), _say), template=template)
    if unread:
        raise with_rendering(unread, chat)
    show(chat, user_rows, safe_text.console(), rows, max_length)


@data_app.command("fix")
def data_fix(
    file: Annotated[str, typer.Argument(help="A user's file, some of whose rows cannot be used as they are.")],
    out: Annotated[
        str | None, typer.Option("--out", help="File to write. Default: FILE.fixed.jsonl beside it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write the usable rows to a clean file. List by line what was dropped and changed."""
    from unforgotten.verbs import data_fix as verb

    where, fixed = verb.fix(file, out, force=force)
    for sentence in fixed.sentences():
        _say(sentence)
    _print(where)


@data_app.command("audit")
def data_audit(
    judge: Annotated[
        str, typer.Option("--judge", help="Judge of the rows: llama_guard, wildguard, qwen3guard, instructed …")
    ],
    file: Annotated[
        str | None,
        typer.Argument(help="A user's file: JSONL or JSON. Default with --recipe: the rows of that recipe."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="JUDGE.FIELD=VALUE",
            help="A setting of the judge: --set llama_guard.endpoint=… Repeatable.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="Hub id, folder or `world`: its chat template decides what the loss sees of a row."
        ),
    ] = None,
    template: Annotated[str | None, typer.Option("--template", help="A Jinja chat template file.")] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length", min=2, help="Length in tokens to which training cuts rows. What is cut is not judged."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", help="Recipe whose model, template and length are used, instead of these three options."
        ),
    ] = None,
    harmless: Annotated[
        str | None, typer.Option("--harmless", help="Known-harmless rows, used to correct p for false alarms.")
    ] = None,
    harmful: Annotated[
        str | None, typer.Option("--harmful", help="Known-harmful rows, used to correct p for the judge's misses.")
    ] = None,
    max_p: Annotated[
        float | None, typer.Option("--max-p", help="Limit on the share p of harmful rows, in percent.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="JSON file to write all findings to.")] = None,
) -> None:
    """List the harmful rows of an upload by line and estimate their share p, before training.

    With --max-p, exit code 0 means that the whole interval of p is within the limit, 3 that it is above, and 4 that too
    few rows were judged to decide. If no row could be read, it is 4, also without a limit.
    """
    from pathlib import Path

    from unforgotten.errors import DataError
    from unforgotten.runs import atomic
    from unforgotten.verbs.audit import audit as verb
    from unforgotten.verbs.audit import text

    [spec] = _judges([judge], set_)
    try:
        if out:  # told now where it cannot be written, and not after everything is judged; an older file stays
            atomic.put(probe := Path(out).with_name(f".{Path(out).name}.probe"), "")
            probe.unlink()
            if Path(out).is_dir():
                raise DataError(f"--out {out} is a folder: name a file.")
    except OSError as error:
        raise DataError(f"--out {out} cannot be written: {error.strerror}.") from None
    audited = verb.audit(
        file,
        spec,
        _say,
        harmless=harmless,
        harmful=harmful,
        model=model,
        template=template,
        max_length=max_length,
        recipe=None if recipe is None else _recipe(recipe, None),
        max_p=max_p,
    )
    if out:
        atomic.put(Path(out), safe_text.json_text(audited.json()) + "\n")
    text.show_audit(audited)
    if out:
        _print(out)
    if audited.exit_code:
        raise typer.Exit(audited.exit_code)


def _judges(names: list[str], set_: list[str] | None) -> list[dict[str, Any]]:
    """Judges by name, with fields given as JUDGE.FIELD=VALUE."""
    from unforgotten.errors import RecipeError, UnknownName
    from unforgotten.runs import strict_yaml

    if len(set(names)) < len(names):
        raise RecipeError("--judge names one judge twice. Only `judge:` of a recipe may, with other settings.")
    specs: dict[str, dict[str, Any]] = {name: {"name": name} for name in names}
    for dotted, value in _options_of(set_, {}).items():
        name, dot, field = dotted.partition(".")
        if not dot:
            raise RecipeError(f"--set takes JUDGE.FIELD=VALUE here, such as {names[0]}.{dotted}={value}.")
        if name not in specs:
            raise UnknownName("judge among those given", name, specs)
        specs[name][field] = strict_yaml.load(str(value), f"--set {dotted}")
    return list(specs.values())


def _plan(recipe: Any, verb: Any) -> None:
    from unforgotten.verbs.plan import plan, text

    text.show(plan.plan(recipe, verb))


def _recipe(source: str, set_: list[str] | None, **given: Any) -> Any:
    from unforgotten.recipe.read import load_recipe

    return load_recipe(source, _options_of(set_, given))


def _options_of(set_: list[str] | None, given: dict[str, Any]) -> dict[str, Any]:
    from unforgotten.errors import RecipeError

    options = {name: value for name, value in given.items() if value is not None}
    for option in set_ or []:
        field, equals, value = option.partition("=")
        if not equals:
            raise RecipeError(f"--set takes FIELD=VALUE, such as training.num_train_epochs=1, not {option!r}.")
        options[field] = value
    return options


def _shard(text: str | None) -> tuple[int, int] | None:
    from unforgotten.errors import RecipeError

    if text is None:
        return None
    i, slash, n = text.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal()):
        raise RecipeError(f"--shard takes I/N, such as 1/4 for the first of four, not {text!r}.")
    return int(i), int(n)


def _seeded(recipe: Any, seeds: int | None) -> Any:
    if seeds is None:
        return recipe
    grid = recipe.compare.model_dump(exclude_unset=True) if recipe.compare else {}
    return recipe.varied(compare=grid | {"seed": list(range(seeds))})


def _print(*lines: object) -> None:
    """Results go to stdout, each on lines of its own."""
    for text in lines:
        print(safe_text.block(text))


def _say(text: str) -> None:
    """Progress goes to stderr, so that what is printed can be piped."""
    console = safe_text.console(stderr=True)
    # A line of a log is one line, however long it is.
    console.print(variables.hidden(text), style="dim", soft_wrap=safe_text.room(console) is None)
    bars.just_spoke()


if __name__ == "__main__":
    main()
