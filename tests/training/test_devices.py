"""One process trains on one device, and shards are refused where a method is not right with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import TrainingArguments

from tests.training.test_trainer import arguments
from unforgotten import registry, testing
from unforgotten.errors import RecipeError, UnsupportedError
from unforgotten.methods.base import Method
from unforgotten.methods.sft import SFT
from unforgotten.training import checks
from unforgotten.training.trainer import MethodTrainer

ALLOWED = {"sft", "safeinstr", "lisa"}


def spec(name: str) -> dict[str, Any]:
    """The method with what it cannot be built without."""
    return {"name": name, **({"safety_adapter": "adapter"} if name == "safemerge" else {})}


def trainer(args: Any, method: Any = "der", **more: Any) -> MethodTrainer:
    return MethodTrainer(
        model=more.pop("model", None) or testing.tiny_model("merge"),
        args=args,
        train_dataset=testing.ragged_rows(8, 1),
        safety_dataset=testing.ragged_rows(8, 2),
        unaligned_model={},
        method=method,
        **more,
    )


def eight(folder: Path) -> TrainingArguments:
    """A machine with eight GPUs, as far as the Trainer's arguments say: they count when devices are set up."""
    args = arguments(folder, per_device_train_batch_size=2, gradient_accumulation_steps=1, max_steps=-1,
                     num_train_epochs=1)  # fmt: skip
    _ = args.device
    args._n_gpu = 8
    return args


def test_one_process_trains_on_one_of_eight_gpus_and_says_so(tmp_path: Path) -> None:
    args = eight(tmp_path)
    assert args.train_batch_size == 16, "what the Trainer would have taken"
    made = trainer(args)
    assert args.n_gpu == 1 and args.train_batch_size == 2
    made.train()
    assert made.state.global_step == 4 and made.run.user.batch_size == 2
    assert not isinstance(made.model_wrapped, torch.nn.DataParallel)
    assert "sees 8 GPUs and trains on one" in made.run.notes[0] and "torchrun" in made.run.notes[0]


def test_arguments_that_see_more_gpus_after_construction_are_put_right_too(tmp_path: Path) -> None:
    args = arguments(tmp_path, max_steps=1)
    made = trainer(args)
    args._n_gpu = 2
    made.train()
    assert not isinstance(made.model_wrapped, torch.nn.DataParallel)


def test_the_verbs_arguments_train_on_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unforgotten.recipe.training import Training
    from unforgotten.training.arguments import TrackedArguments
    from unforgotten.training.arguments import arguments as of_recipe

    args = of_recipe(Training(per_device_train_batch_size=4), tmp_path, 0)
    monkeypatch.setattr(TrackedArguments, "n_gpu", property(lambda self: self.__dict__.get("_seen", 2)))
    monkeypatch.setattr(
        TrackedArguments, "_n_gpu", property(None, lambda self, n: self.__dict__.update(_seen=n)), raising=False
    )
    assert args.train_batch_size == 8
    trainer(args)
    assert args.train_batch_size == 4


def test_a_model_in_data_parallel_is_refused(tmp_path: Path) -> None:
    model = torch.nn.DataParallel(testing.tiny_model("merge"))
    with pytest.raises(UnsupportedError, match="model.module"):
        trainer(arguments(tmp_path), model=model)


@pytest.mark.parametrize("name", registry.names("methods"))
@pytest.mark.parametrize("how", ["arguments", "launcher"])
def test_fsdp2_is_refused_at_construction_for_all_methods_but_three(
    name: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on the CPU, where accelerate would run plain DDP without a word."""
    more: dict[str, Any] = {}
    if how == "arguments":
        more = {"fsdp": "full_shard", "fsdp_config": {"version": 2}}
    else:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        monkeypatch.setenv("FSDP_VERSION", "2")
    args = arguments(tmp_path, **more)
    methods = [registry.build("methods", spec(name))]
    if name in ALLOWED:
        checks.refuse_shards(methods, args)
        return
    with pytest.raises(UnsupportedError, match="under FSDP2.*sft, safeinstr and lisa.*DDP"):
        trainer(args, spec(name))
    with pytest.raises(UnsupportedError, match="under FSDP2"):
        trainer(args, ["sft", spec(name)])


WORKING = [name for name in registry.names("methods") if checks._working([registry.build("methods", spec(name))])]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ACCELERATE_USE_FSDP": "yes"}, "under FSDP1"),
        ({"ACCELERATE_USE_FSDP": "on", "FSDP_VERSION": "2"}, "under FSDP2|under FSDP1"),
        ({"ACCELERATE_USE_FSDP": "T"}, "under FSDP1"),
        ({"ACCELERATE_USE_DEEPSPEED": "y"}, "under DeepSpeed"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "parallelism_config or Megatron"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism_config or Megatron"),
    ],
    ids=str,
)
def test_what_the_launcher_asks_for_is_refused_as_arguments_are(
    variables: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = arguments(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in sorted({*WORKING} - ALLOWED):
        with pytest.raises(UnsupportedError, match=said):
            trainer(args, spec(name))
    assert len(WORKING) > 9


def test_fp16_by_the_launcher_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    AcceleratorState._reset_state(True)
    try:
        with pytest.raises(UnsupportedError, match="DER cannot run with fp16"):
            trainer(arguments(tmp_path))
    finally:
        AcceleratorState._reset_state(True)


def test_a_version_of_fsdp_that_is_no_number_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "two")
    with pytest.raises(RecipeError, match="FSDP's version is 'two'"):
        trainer(arguments(tmp_path))


@pytest.mark.parametrize("optim", ["galore_adamw_layerwise", "apollo_adamw_layerwise", "lomo"])
def test_optimizers_that_step_within_the_backward_are_refused(optim: str, tmp_path: Path) -> None:
    args = arguments(tmp_path, optim=optim, optim_target_modules=["q_proj"])
    with pytest.raises(UnsupportedError, match="AGEM cannot run with optim=.*during the backward"):
        trainer(args, "agem")
    checks.refuse_early_steps([SFT()], args)


@pytest.mark.slow
def test_a_compiled_model_trains_as_it_does_uncompiled(tmp_path: Path) -> None:
    """Refresh draws its noise by the names of tensors."""
    seen = []
    for settings in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        made = trainer(arguments(tmp_path, max_steps=1, **settings), "refresh")
        made.train()
        seen.append({name: p.detach().clone() for name, p in made.run.weights.params().items()})
    assert seen[0].keys() == seen[1].keys()
    for name, p in seen[0].items():
        torch.testing.assert_close(seen[1][name], p, rtol=1e-5, atol=1e-6)


def test_a_model_in_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed.tensor

    model = testing.tiny_model("merge")
    monkeypatch.setattr(torch.distributed.tensor, "DTensor", torch.nn.Parameter)  # making a real one needs ranks
    with pytest.raises(UnsupportedError, match="DER cannot run on a sharded model.*DDP"):
        checks.refuse_parts([registry.build("methods", "der")], model)
    checks.refuse_parts([SFT()], model)


def test_a_method_of_ones_own_is_not_right_under_fsdp2_for_being_an_sft(tmp_path: Path) -> None:
    class Mine(SFT):
        def loss(self, run: Any, batch: Any, out: Any) -> None:
            return None

    assert issubclass(Mine, Method)
    with pytest.raises(UnsupportedError, match="Mine cannot run under FSDP2"):
        trainer(arguments(tmp_path, fsdp="full_shard", fsdp_config={"version": 2}), Mine())
