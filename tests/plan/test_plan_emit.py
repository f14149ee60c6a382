"""A plan over groups as files of frameworks: loaded back, trained, and what they cannot say named."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import titan_file
import torch
import yaml
from provoke import provoke

from danlu.cli import app, plan_emit
from danlu.cli.bench import load
from danlu.cli.config import load as load_run
from danlu.fleet.groups import shorthand
from danlu.nouns import Card, Fleet, Group, GroupedFleet, Link, ModelSpec, RopeScaling
from danlu.plan import presets, text
from danlu.plan.groups import choose, emit
from danlu.plan.groups.grouped import GroupedPlan, GroupStage, Replicas
from danlu.plan.groups.unit_cost import Stack, Way

torch.set_num_threads(1)
TINY = ModelSpec("llama", 2, 24, 4, 2, 6, 20, 37, 64)
MIXTURE = replace(presets.preset("mixtral-8x7b"), layers=4)


def grouped(spec: ModelSpec, replicas: tuple[Replicas, ...], counts: tuple[int, ...]) -> GroupedPlan:
    groups = tuple(Group(f"kind{i}", n, 1e13, 1 << 34, 1e12, 1e11, 1e10, 4) for i, n in enumerate(counts))
    batch = sum(each.sequences for each in replicas)
    return GroupedPlan("hybrid", spec, GroupedFleet("tiny", groups), batch, 16, "zb-h1", replicas, 1.0)


def stage(group: int, tp: int, start: int, stop: int, recompute: str = "none") -> GroupStage:
    return GroupStage(group, Way(tp, 1, recompute), start, stop, 0.1, 0.0, 0.1, 1 << 30, 0.0, 0.0)


MANY = (
    Replicas(1, (stage(0, 2, 0, 3), stage(1, 1, 3, 6)), 1, 3, 1.0),
    Replicas(2, (stage(1, 1, 0, 6),), 1, 2, 1.0),
)


def test_a_plan_for_danlu_is_read_back_and_computes_what_one_process_does():
    plan = grouped(TINY, MANY, (2, 3))
    cards = tuple(Card(f"c{i}", "emulated", "t", {"fp32": 1e9}, 1 << 30, 1e9, cores=0.1) for i in range(5))
    links = tuple(Link(a.name, b.name, 0.0, 1e12) for i, a in enumerate(cards) for b in cards[i + 1 :])
    seats = [["c0", "c1"], ["c2", "c3", "c4"]]
    found = emit.danlu(plan, TINY, Fleet("five", cards, links), seats, "here")
    back = text.loads(found.files["plan.json"])
    assert [len(each.stages) for each in back.pipelines] == [2, 1, 1]
    assert [each.micro_batches for each in back.pipelines] == [3, 2, 2]
    assert back.stages[0].shares == (2, 2) and back.sequences == plan.batch
    assert any("zb-h1" in each for each in found.cannot)
    bench = load("training/together")
    assert bench.gradient_error(bench.job_of(back)) < 1e-5


def test_every_card_of_an_emitted_plan_has_one_place(tmp_path):
    found = choose.best(presets.preset("llama-3-8b"), shorthand("8xA100-80+16xH20"), batch=32, seq=2048)
    made = plan_emit.emitted(found, "danlu", "8xA100-80+16xH20", tmp_path)
    plan = text.loads(made.files["plan.json"])
    names = [name for each in plan.pipelines for one in each.stages for name in one.cards]
    assert len(names) == len(set(names)) == sum(found.best.plan.used)
    assert all(plan.fleet.link(a, b) for a in names[:3] for b in names[-3:] if a != b)
    plan_emit.write(made, tmp_path)
    assert load_run(tmp_path / "run.yaml", []).plan.path is not None


def test_megatrons_arguments_say_the_stages():
    spec = replace(presets.preset("llama-3-8b"), layers=4)
    ends = ((0, 3), (3, 8), (8, 10))
    plan = grouped(spec, (Replicas(2, tuple(stage(0, 2, *each) for each in ends), 2, 8, 1.0),), (12,))
    found = emit.megatron(plan, spec)
    script = found.files["megatron.sh"]
    for words in ("--num-layers 4", "--pipeline-model-parallel-size 3", "--tensor-model-parallel-size 2",
                  "--pipeline-model-parallel-layout 'Et|tt|tL'", "--global-batch-size 32", "--micro-batch-size 2",
                  "--rotary-base 500000", "--num-query-groups 8", "12 ranks"):  # fmt: skip
        assert words in script, words
    assert any("between attention and MLP" in each for each in found.cannot)
    unlike = grouped(spec, (Replicas(1, (stage(0, 2, 0, 4), stage(0, 4, 4, 10)), 1, 4, 1.0),), (6,))
    with provoke("DL-CFG-002") as caught:
        emit.megatron(unlike, spec)
    assert "2 x 1 x 1 and 4 x 1 x 1" in caught.error.why


def test_megatrons_arguments_say_all_of_the_model():
    """What decides what the model computes; Megatron-LM's own defaults are other ones."""
    each = (Replicas(2, (stage(0, 2, 0, 10),), 2, 8, 1.0),)
    for name, words in (
        ("qwen2.5-7b", ("--add-qkv-bias", "--norm-epsilon 1e-06", "--vocab-size 152064")),
        ("mistral-7b", ("--norm-epsilon 1e-05",)),
        ("mixtral-8x7b", ("--moe-ffn-hidden-size 14336", "--moe-token-dispatcher-type alltoall")),
        (
            "deepseek-v2-lite-16b",
            (
                "--kv-lora-rank 512",
                "--qk-pos-emb-head-dim 64",
                "--ffn-hidden-size 10944",
                "--moe-layer-freq '([0]*1+[1]*3)'",
                "--moe-shared-expert-intermediate-size 2816",
            ),
        ),
        ("gemma-2-27b", ("--window-size 4095,0", "--window-attn-skip-freq 2")),
        ("gpt3-175b", ("--ffn-hidden-size 49152", "--position-embedding-type learned_absolute", "LayerNorm")),
    ):
        spec = replace(presets.preset(name), layers=4)
        spec = replace(spec, unwindowed=min(spec.unwindowed, 2))
        script = emit.megatron(grouped(spec, each, (4,)), spec).files["megatron.sh"]
        assert all(word in script for word in words)
        assert ("--moe-router-pre-softmax" in script) == (name == "deepseek-v2-lite-16b")
    spec = replace(MIXTURE, norm_topk=False, shared_ffn=20480, window=4096, out_bias=True,
                   rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192))  # fmt: skip
    found = emit.megatron(grouped(spec, each, (4,)), spec)
    for words in ("--moe-shared-expert-intermediate-size 20480 --moe-shared-expert-gate", "--moe-router-pre-softmax",
                  "--window-size 4095,0", "--use-rope-scaling --rope-scaling-factor 8"):  # fmt: skip
        assert words in found.files["megatron.sh"], words
    assert any("bias of attention's output" in one for one in found.cannot)
    with provoke("DL-CFG-002"):
        emit.megatron(grouped(TINY, each, (4,)), presets.preset("yuan2-2b"))


def test_a_megatron_script_is_a_shell_script_whose_every_word_is_an_option():
    spec = replace(presets.preset("llama-3-8b"), layers=4)
    plan = grouped(spec, (Replicas(2, (stage(0, 2, 0, 5), stage(0, 2, 5, 10)), 1, 7, 1.0),), (8,))
    script = emit.megatron(plan, spec).files["megatron.sh"]
    said = subprocess.run(["bash", "-c", script.replace("torchrun ", "printf '%s\\n' "), "-", "--nnodes", "2"],
                          capture_output=True, text=True, check=True).stdout.split("\n")  # fmt: skip
    assert said[:3] == ["--nnodes", "2", "pretrain_gpt.py"] and "Ett|ttL" in said
    assert said[said.index("--vocab-size") + 1] == "128256" and "--mock-data" in said


def test_torchtitans_file_is_python_with_every_module_once():
    spec = presets.preset("llama-3-8b")
    ends = ((0, 30, "full"), (30, 66, "none"))
    plan = grouped(spec, (Replicas(4, tuple(stage(0, 1, *each) for each in ends), 1, 8, 1.0),), (8,))
    found = emit.torchtitan(plan, spec)
    said = titan_file.settings(found.files["torchtitan_plan.py"])
    parts = said["parallelism.module_fqns_per_model_part"]
    names = [name for part in parts for name in part]
    assert names == ["tok_embeddings", *(f"layers.{i}" for i in range(32)), "norm", "lm_head"]
    assert said["training.num_tokens_per_train_step"] == 32 * plan.seq
    assert said["training.num_tokens_per_microbatch_per_dp_rank"] * said["parallelism.num_pp_microbatches"] * (
        said["parallelism.data_parallel_shard_degree"]) == 32 * plan.seq  # fmt: skip
    assert said["activation_checkpoint"] == "FullAC.Config()" and said["model_spec"] == "model_registry('8B')"
    assert any("recompute full and none" in each for each in found.cannot)
    with provoke("DL-CFG-002"):
        emit.torchtitan(plan, presets.preset("llama-2-7b"))  # as many layers and as wide, another model


@pytest.mark.parametrize("name", ["llama-3-8b", "llama-3-405b", "qwen3-8b", "qwen3-32b", "qwen3-30b-a3b"])
def test_torchtitan_has_a_flavor_of(name):
    spec = replace(presets.preset(name))
    plan = grouped(spec, (Replicas(4, (stage(0, 2, 0, len(spec.units)),), 1, 8, 1.0),), (8,))
    said = titan_file.settings(emit.torchtitan(plan, spec).files["torchtitan_plan.py"])
    assert name.rpartition("-")[2].upper() in said["model_spec"] and not said["training.disable_cuda_graphs"]


@pytest.mark.parametrize("framework", ["danlu", "megatron", "torchtitan"])
def test_the_command_writes_what_it_says(framework, tmp_path, capsys):
    words = ["plan", "llama-3-8b", "16xH100", "--batch", "32", "--emit", framework, "--to", str(tmp_path / "to")]
    assert app.main(words) == 0
    said = capsys.readouterr().out
    assert ("not in it: schedule zb-h1" in said) == (framework == "danlu") and "start: " in said
    assert all(path.name in said for path in (tmp_path / "to").iterdir())
    if framework == "danlu":
        run = yaml.safe_load((tmp_path / "to" / "run.yaml").read_text())
        assert Path(run["plan"]["path"]).exists()


def test_a_plan_in_8_bits_is_faster_where_cards_can_and_says_where_they_cannot(tmp_path):
    spec, words = presets.preset("llama-3-8b"), "8xH100+8xA100-80"

    def best(fleet: str, dtype: str) -> choose.Chosen:
        return choose.best(spec, shorthand(fleet), batch=32, seq=2048, stack=Stack(precision=dtype))

    old, older = (best("8xA100-80", dtype).best.seconds for dtype in ("bf16", "fp8"))
    assert old == older
    wide, narrow = (best("8xH100", dtype).best for dtype in ("bf16", "fp8"))
    assert wide.seconds / 2 < narrow.seconds < wide.seconds
    assert best("8xH100", "fp32").best.seconds > wide.seconds
    mixed = best(words, "fp8")
    assert mixed.best.plan.precision == "fp8 (bf16 on A100-80)"
    plan = text.loads(plan_emit.emitted(mixed, "danlu", words, tmp_path).files["plan.json"])
    assert plan.dtype == "fp8-mixed" and {"fp8" in card.flops for card in plan.fleet.cards} == {True, False}
    assert "--fp8-format hybrid" in emit.megatron(narrow.plan, spec).files["megatron.sh"]
    titan = titan_file.settings(emit.torchtitan(narrow.plan, spec).files["torchtitan_plan.py"])
    assert "Float8LinearConverter" in titan["model_spec"] and titan["compile.enable"]
