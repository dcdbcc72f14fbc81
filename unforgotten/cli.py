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
from unforgotten.runs import console, origin, terminate, user_code, variables


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
                help="Load no class out of a file (./mine.py:Mine), whoever names it.",
            ),
        ] = False,
        trust_recipe: Annotated[
            bool,
            typer.Option(
                "--trust-recipe",
                callback=_set(origin.TRUST),
                help="Trust a run folder's own recipe as if you had written it.",
            ),
        ] = False,
        allow_env: Annotated[
            list[str] | None,
            typer.Option(
                "--allow-env",
                metavar="NAME",
                callback=_set(variables.ALLOWED),
                help="A variable that recipes may use, beside UNFORGOTTEN_*. May be repeated.",
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
            with terminate.handled():
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
            print(f"error: {console.block(variables.hidden(message))}", file=sys.stderr)
            raise typer.Exit(2) from None


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
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_(
    room: Annotated[
        str | None, typer.Argument(help="methods, datasets, judges or recipes; the first three if left out.")
    ] = None,
) -> None:
    """Every method, dataset and judge, with what each one claims; or every recipe that ships with the package."""
    from unforgotten.errors import UnknownName
    from unforgotten.recipe.read import shipped
    from unforgotten.report.table import Cell, Table, name, prose
    from unforgotten.report.writers import terminal
    from unforgotten.runs import described

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
            claim = described.claim(cls)
            facts = " · ".join(f"{what} {fact}" for what, fact in cls.facts().items()) if each == "methods" else ""
            rows.append([Cell(component), Cell(claim, brief=facts)])
        terminal.show(Table([name(each.removesuffix("s")), prose("what it does")], rows))
        _print("")


RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a shipped recipe.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Any field, dotted: --set training.num_train_epochs=1. May be repeated."
    ),
]
MethodOption = Annotated[str | None, typer.Option("--method", help="Short for --set method=…")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Short for --set seed=…")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print what it would do, take and download, and do nothing.")
]
OutOption = Annotated[str | None, typer.Option("--out", help="Folder that run folders are made in.")]


@app.command()
def align(
    recipe: RecipeArgument,
    set_: SetOption = None,
    seed: SeedOption = None,
    out: OutOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Make θ_safe of a base model, on the recipe's safety rows. Not needed for an aligned instruct model."""
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
            "--audited", help="What `data audit --out` wrote: refuse to train on anything that it did not pass."
        ),
    ] = None,
    set_: SetOption = None,
    seed: SeedOption = None,
    out: OutOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Fine-tune θ_safe on the user's rows, with a method that keeps safety. Prints the run folder."""
    from unforgotten.verbs.finetune import finetune as verb

    parsed = _recipe(recipe, set_, method=method, seed=seed, out=out)
    if dry_run:
        return _plan(parsed, "finetune")
    _print(verb.finetune(parsed, _say, audited=audited))


@app.command()
def synthesize(recipe: RecipeArgument, set_: SetOption = None, seed: SeedOption = None, out: OutOption = None) -> None:
    """Make safety data from the aligned model itself, where its own is not to be had (GR-SAP). Prints the file."""
    from unforgotten.verbs.synthesize import synthesize as verb

    _print(verb.synthesize(_recipe(recipe, set_, seed=seed, out=out), _say))


@app.command()
def evaluate(
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET…", help="Recipes (their runs), run folders, model folders, Hub ids.")
    ],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="Whose `evaluate:` is used; a run folder and a recipe have their own."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Compare prompt by prompt: `aligned`, `base`, a run or model folder, a Hub id."),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option("--gate", help="Limits to decide on: max_asr=5,max_refusal_rise=5,max_utility_loss=3"),
    ] = None,
    method: MethodOption = None,
    set_: SetOption = None,
    seed: SeedOption = None,
    out: OutOption = None,
) -> None:
    """Measure attack success, over-refusal and utility, with 95 % intervals. Prints a table.

    With --gate the exit code is 0 where all limits hold, 3 where one does not, 4 where too few prompts were asked to
    tell; 2 is an error, as everywhere.
    """
    from unforgotten.evaluation import gate as gates
    from unforgotten.report import text as report
    from unforgotten.runs import results
    from unforgotten.verbs import evaluate as verb
    from unforgotten.verbs import gate as contrasted

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
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Folders that evaluate or compare left.")],
    judges: Annotated[list[str], typer.Option("--judge", help="Who judges; several tell how far they agree.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="JUDGE.FIELD=VALUE", help="A judge's field: --set keywords.list=xstest."),
    ] = None,
) -> None:
    """Let other judges read the replies of runs: nothing is generated. Prints a table."""
    from unforgotten.report import text as report
    from unforgotten.verbs import judge as verb

    report.show(verb.judge(runs, _judges(judges, set_), _say))


@app.command()
def compare(
    recipe: RecipeArgument,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Run seeds 0 … N−1.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Runs at a time, in place of compare.jobs; of several GPUs each has one."
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="This is the I-th of N commands on one disk: --shard 1/4 to --shard 4/4."
        ),
    ] = None,
    set_: SetOption = None,
    out: OutOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Run the recipe's grid of methods, poison ratios, tasks and seeds; print one table and write a page.

    What is done is not done again, and one run that fails does not stop the others. Several commands may work on one
    grid, also from several machines on one disk: --shard says that this one need not wait for the others.
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would search, and do nothing.")] = False,
) -> None:
    """Tune the method's settings: lowest ASR at preserved task accuracy, on prompts that no report uses.

    Prints the front and the choice, with its figures on prompts that the search did not see, and the folder. The same
    command goes on after a kill, or with more trials.
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
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Run seeds 0 … N−1.")] = None,
    set_: SetOption = None,
    out: OutOption = None,
) -> None:
    """See it happen in minutes on two cores: a safe model forgets to refuse, and keeps it under DER."""
    from unforgotten.report import text as report
    from unforgotten.report.page.page import page
    from unforgotten.report.side_by_side import side_by_side
    from unforgotten.runs import results
    from unforgotten.verbs.compare import compare as verb

    recipe = _seeded(_recipe("demo", set_, out=out), seeds)
    folder = verb.compare(recipe, _say)
    rows = results.read(folder / "results.json")
    report.show(rows)
    side_by_side(folder)
    _print(report.sentence(rows))
    _print(folder / "results.json", page(folder))


@app.command("report")
def report_(
    comparison: Annotated[str, typer.Argument(metavar="COMPARISON", help="A folder that compare left, or a run.")],
    out: Annotated[
        str | None,
        typer.Option("--out", help="The HTML file; figures/ and tables/ go beside it. Default: in the folder."),
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Write the figures as PNG too.")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write the figures as PDF too.")] = False,
) -> None:
    """Write a comparison or a run as one HTML page, with its figures as SVG and its tables. Prints the page's path."""
    from pathlib import Path

    from unforgotten.report.page.page import page

    _print(page(Path(comparison), None if out is None else Path(out), png, pdf))


@app.command()
def repair(
    method: Annotated[str, typer.Option("--method", help="A weight edit: safelora, magmax.")],
    unaligned_model: Annotated[
        str, typer.Option("--unaligned-model", help="θ₀, from before alignment: a folder or Hub id of weights.")
    ],
    aligned: Annotated[str, typer.Option("--aligned", help="θ_safe: weights, or an adapter on θ₀.")],
    tuned: Annotated[str, typer.Option("--tuned", help="θ*: weights, or an adapter on θ_safe or on θ₀.")],
    out: Annotated[str, typer.Option("--out", help="Folder to write; must not exist yet.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="The method's fields.")] = None,
    as_lora: Annotated[
        int | None, typer.Option("--as-lora", min=1, help="Save the nearest adapter of this rank on θ_safe instead.")
    ] = None,
) -> None:
    """Edit the weights of a finished model, one tensor at a time, without training. Prints the folder."""
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


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a trained run, or its recipe.")],
    form: Annotated[str, typer.Option("--as", help="adapter, stacked (one adapter on the public base) or merged.")],
    out: Annotated[str | None, typer.Option("--out", help="Folder to write; by default RUN/exports/<form>.")] = None,
    max_rank: Annotated[
        int, typer.Option("--max-rank", min=1, help="The highest rank that your vLLM server takes.")
    ] = 512,
    dtype: Annotated[
        str, typer.Option("--dtype", help="Of merged weights: float32, bfloat16, float16; auto is the base's own.")
    ] = "auto",
    push: Annotated[str | None, typer.Option("--push", metavar="OWNER/NAME", help="Upload it to the Hub.")] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: only you can see it.")] = False,
) -> None:
    """Write a run's model for others to load and serve, proven by the same greedy replies. Prints the folder."""
    from unforgotten.verbs.export import export as verb

    exported = verb.export(run, form, out=out, max_rank=max_rank, dtype=dtype, push_to=push, private=private, say=_say)
    _print(exported.folder)
    _print(*exported.vllm.lines())
    if exported.address:
        _print(exported.address)


data_app = typer.Typer(cls=Trusting, help="Look at data before it is trained on.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("show")
def data_show(
    file: Annotated[str, typer.Argument(help="A user's file: JSONL or JSON, chat, prompt/completion or Alpaca.")],
    model: Annotated[str, typer.Option("--model", help="Hub id or folder, or `world`: whose tokenizer and template.")],
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Rows shown; all are counted.")] = 5,
    template: Annotated[str | None, typer.Option("--template", help="A Jinja chat template file.")] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", min=2)] = None,
) -> None:
    """Print rows as the model will be trained on them, the trained tokens in colour, and what was cut or dropped."""
    from unforgotten.errors import DataError
    from unforgotten.models.chat.faults import with_rendering
    from unforgotten.models.chat.show import show
    from unforgotten.models.load import load_chat
    from unforgotten.recipe import rows as named
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
    show(chat, user_rows, console.console(), rows, max_length)


@data_app.command("fix")
def data_fix(
    file: Annotated[str, typer.Argument(help="A user's file of rows, some of which cannot be used as they are.")],
    out: Annotated[str | None, typer.Option("--out", help="The file to write; FILE.fixed.jsonl beside it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write the rows that can be learnt to a clean file, and list by line what was dropped and changed."""
    from unforgotten.verbs import data_fix as verb

    where, fixed = verb.fix(file, out, force=force)
    for sentence in fixed.sentences():
        _say(sentence)
    _print(where)


@data_app.command("audit")
def data_audit(
    judge: Annotated[
        str, typer.Option("--judge", help="Who reads the rows: llama_guard, wildguard, qwen3guard, instructed …")
    ],
    file: Annotated[
        str | None,
        typer.Argument(help="A user's file: JSONL or JSON. Left out, with --recipe, the rows of that recipe."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="JUDGE.FIELD=VALUE", help="A judge's field: --set llama_guard.endpoint=…"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Hub id, folder or `world`: whose template tells what the loss sees of a row."),
    ] = None,
    template: Annotated[str | None, typer.Option("--template", help="A Jinja chat template file.")] = None,
    max_length: Annotated[
        int | None,
        typer.Option("--max-length", min=2, help="Where training cuts rows; what is cut is not judged."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Whose model, template and length are used, in place of the three.")
    ] = None,
    harmless: Annotated[
        str | None, typer.Option("--harmless", help="Known-harmless rows, used to correct p for false alarms.")
    ] = None,
    harmful: Annotated[
        str | None, typer.Option("--harmful", help="Known-harmful rows, used to correct p for the judge's misses.")
    ] = None,
    max_p: Annotated[
        float | None, typer.Option("--max-p", help="Highest share of harmful rows, in percent, to decide on.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="A JSON file to write all findings to.")] = None,
) -> None:
    """Name the harmful rows of an upload, by line, and estimate their share, before any training.

    With --max-p the exit code is 0 where the whole interval of p is within the limit, 3 where it is beyond, 4 where too
    few rows were judged to tell. It is 4 as well, with or without a limit, where no row could be read.
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
        atomic.put(Path(out), console.json_text(audited.json()) + "\n")
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
        raise RecipeError("--judge names one judge twice. In a recipe, `judge:` may hold one twice with other fields.")
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
        print(console.block(text))


def _say(text: str) -> None:
    """Progress goes to stderr, so that what is printed can be piped."""
    console.console(stderr=True).print(variables.hidden(text), style="dim")


if __name__ == "__main__":
    main()
