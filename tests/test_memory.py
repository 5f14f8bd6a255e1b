"""Memory cores.

A sequence equals torch's own cells stepped through it, or its definition; steps equal the sequence,
with resets, within a full window, and where they write in place; the state is reset where asked and
nowhere else; columns do not mix; gradients flow back to the first input, and not
over a reset; unknown names are refused with what exists.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from meta_rl.memory import MEMORY_CORES, MemoryCore, make_memory_core
from meta_rl.memory.mingru import Interpolation

T, N, F, H = 5, 3, 4, 6
CELLS = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}


@pytest.fixture(params=sorted(MEMORY_CORES))
def name(request: Any) -> str:
    return request.param


@pytest.fixture
def core(name: str) -> MemoryCore:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_memory_core(name, F, H).double()


def sequence(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(T, N, F, generator=generator, dtype=torch.float64)


def begun(core: MemoryCore) -> Any:
    """A state that is not the initial one."""
    return core(sequence(1), core.initial_state(N))[1]


def visible(name: str, state: Any) -> list[torch.Tensor]:
    """What a core reads of a state: attention hides the slots of earlier trials."""
    if name != "attention":
        return list(state)
    steps, *caches = state
    empty = torch.arange(caches[0].shape[2]) >= steps
    return [steps, *(cache.masked_fill(empty[:, None, :, None], 0.0) for cache in caches)]


@pytest.mark.parametrize("name", sorted(CELLS))
def test_a_sequence_equals_the_cell_of_torch(core: MemoryCore, name: str) -> None:
    cell = CELLS[name](F, H).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in core.rnn.state_dict().items()})
    state = begun(core)
    outputs, final = core(sequence(), state)
    assert outputs.shape == (T, N, H)
    hidden: Any = state if name == "lstm" else state[0]
    for t in range(T):
        hidden = cell(sequence()[t], hidden)
        torch.testing.assert_close(outputs[t], hidden[0] if name == "lstm" else hidden)
    for ours, theirs in zip(final, hidden if name == "lstm" else (hidden,), strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_associations_equal_their_definition() -> None:
    """A loop over the stored steps; keys are the first two features of an input."""
    core = make_memory_core("associative", F, H, key_size=2).double()
    for parameter in core.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
    inputs = torch.cat([torch.zeros(1, N, F, dtype=torch.float64), sequence()])
    outputs, _ = core(sequence(), core.initial_state(N))
    keys = (inputs[..., :2] @ core.key.weight.T + core.key.bias).softmax(dim=-1)
    for n in range(N):
        stored: list[tuple[torch.Tensor, ...]] = []  # key, and the value in each layer
        for t in range(1, T + 1):
            pair = known = torch.cat([inputs[t - 1, n], inputs[t, n]])
            values: list[torch.Tensor] = []
            for layer in range(2):
                values.append(core.value[layer](known).clamp(min=0))
                there = [*stored, (keys[t - 1, n], *values)] if t > 1 else []
                weights = [(keys[t, n] @ entry[0]).item() for entry in there]
                parts = [w * entry[1 + layer] for w, entry in zip(weights, there, strict=True)]
                total = sum(parts, torch.zeros(64, dtype=torch.float64))
                amount = torch.tensor([sum(weights)], dtype=torch.float64)
                read = torch.cat([0.3 * total, total / (amount + 0.1), amount.log1p()])
                mixed = core.mix[layer](torch.cat([read, known])).clamp(min=0)
                known = torch.cat([pair, mixed])
            if t > 1:
                stored.append((keys[t - 1, n], *values))
            torch.testing.assert_close(outputs[t - 1, n], torch.cat([mixed, read]))


def test_the_minimal_unit_equals_its_definition() -> None:
    """Feng et al. (2024), section 3.1: ``h = (1 - z) h + z c``."""
    core = make_memory_core("mingru", F, H).double()
    (memory,) = begun(core)
    outputs, _ = core(sequence(), (memory,))
    weight, bias = core.gates.weight, core.gates.bias
    for t in range(T):
        gate = (sequence()[t] @ weight[:H].T + bias[:H]).sigmoid()
        memory = (1 - gate) * memory + gate * (sequence()[t] @ weight[H:].T + bias[H:])
        torch.testing.assert_close(outputs[t], memory)


def test_the_gradient_of_the_minimal_unit_equals_numerical_differences() -> None:
    gates = sequence().sigmoid().requires_grad_()
    candidates, first = sequence(1).requires_grad_(), sequence(2)[0].requires_grad_()
    assert torch.autograd.gradcheck(Interpolation.apply, (gates, candidates, first))


def test_steps_equal_the_sequence(core: MemoryCore) -> None:
    state = begun(core)
    outputs, final = core(sequence(), state)
    for t in range(T):
        output, state = core.step(sequence()[t], state)
        torch.testing.assert_close(output, outputs[t])
    for ours, theirs in zip(state, final, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("first", ["initial", "begun"])
@torch.no_grad()
def test_resets_in_mid_sequence_equal_the_parts_between_them(name: str, first: str) -> None:
    """Steps of float32, each column with resets of its own, give the outputs of whole trials."""
    core = make_memory_core(name, F, H)
    core.initialise(torch.Generator().manual_seed(0))
    core.set_time_scales(20, torch.Generator().manual_seed(1))
    inputs = torch.randn(40, N, F, generator=torch.Generator().manual_seed(2))
    before = core.initial_state(N)
    if first == "begun":
        before = core(inputs.flip(0), before)[1]
    begins = torch.zeros(40, N, dtype=torch.bool)
    begins[17, 0] = begins[[5, 6, 30], 1] = True
    state, outputs = before, []
    for step, begin in zip(inputs, begins, strict=True):
        output, state = core.step(step, core.reset(state, begin))
        outputs.append(output)
    for n in range(N):
        whole, now = [], tuple(leaf[n : n + 1] for leaf in before)
        edges = [0, *begins[:, n].nonzero()[:, 0].tolist(), 40]
        for start, end in itertools.pairwise(edges):
            now = now if start == 0 else core.initial_state(1)
            part, now = core(inputs[start:end, n : n + 1], now)
            whole.append(part[:, 0])
        torch.testing.assert_close(torch.stack(outputs)[:, n], torch.cat(whole), atol=1e-5, rtol=0)
        for leaf, last in zip(visible(name, state), visible(name, now), strict=True):
            torch.testing.assert_close(leaf[n], last[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("in_place", [False, True])
@torch.no_grad()
def test_attention_beyond_its_window(in_place: bool) -> None:
    """Steps equal whole passes where the ring of the cache is full, from any first state."""
    core = make_memory_core("attention", F, H).double()
    core.set_time_scales(7, torch.Generator())
    inputs = torch.cat([sequence(seed) for seed in range(5)])
    whole, final = core(inputs, core.initial_state(N))
    state, outputs = core.initial_state(N), []
    first = state[1].clone()
    with torch.inference_mode(in_place):
        for t in range(15):
            state = core.reset(state, torch.tensor([t == 0] * N))
            output, state = core.step(inputs[t], state)
            outputs.append(output)
        assert state[0].tolist() == [[15]] * N
        rest, state = core(inputs[15:], state)
        torch.testing.assert_close(torch.cat([torch.stack(outputs), rest]), whole)
        for leaf, last in zip(state, final, strict=True):
            torch.testing.assert_close(leaf, last)
    assert torch.equal(core.initial_state(N)[1], first)
    inputs[:12] += 1.0  # two layers of 7 steps see 13 steps back, their own one included
    moved, _ = core(inputs, core.initial_state(N))
    torch.testing.assert_close(moved[24], whole[24])
    assert (moved[23] - whole[23]).abs().max() > 1e-9


@torch.no_grad()
def test_attention_equals_its_definition() -> None:
    """One block: keys turned by their distance as complex numbers, no step sees a later one."""
    core = make_memory_core("attention", F, 8).double()
    block = core.blocks[0]
    assert block.num_heads == 4
    hidden = core.embedding(sequence()).transpose(0, 1)  # [N, T, 8]
    parts = block.parts(block.before(hidden)).unflatten(-1, (3, 4, 2))
    query, key = (torch.complex(*parts[:, :, i].unbind(-1)) for i in range(2))
    mixed = torch.zeros(N, T, 4, 2, dtype=torch.float64)
    for t in range(T):
        turns = torch.exp(1j * torch.arange(t, -1, -1, dtype=torch.float64))[:, None]
        scores = (query[:, t, None] * key[:, : t + 1].conj() * turns).real / 2**0.5
        weights = scores.softmax(dim=1)[..., None]
        mixed[:, t] = (weights * parts[:, : t + 1, 2]).sum(dim=1)
    hidden = hidden + block.mix(mixed.flatten(2))
    expected = core.norm(hidden + block.mlp(block.between(hidden))).transpose(0, 1)
    core.blocks = core.blocks[:1]
    outputs, _ = core(sequence(), core.initial_state(N)[:3])
    torch.testing.assert_close(outputs, expected)


def test_attention_needs_an_even_size() -> None:
    with pytest.raises(ValueError, match="hidden_size=7: core 'attention' needs an even number"):
        make_memory_core("attention", F, 7)


def test_scales_of_a_norm_are_kept_by_the_first_weights() -> None:
    core = make_memory_core("gru", F, H)
    core.norm = nn.LayerNorm(H)
    core.initialise(torch.Generator().manual_seed(0))
    assert (core.norm.weight == 1.0).all()
    assert not core.rnn.bias_hh_l0.any()


def test_the_initial_state_is_empty_with_the_batch_first(core: MemoryCore, name: str) -> None:
    state = core.initial_state(N)
    memories = [(N, F), (N, 32), (N, 32, 64), (N, 32, 64)]
    sizes = {"gru": [(N, H)], "mingru": [(N, H)], "lstm": [(N, H), (N, H)], "associative": memories}
    sizes["attention"] = [(N, 1), *[(N, 1, 512, H)] * 4]
    sizes["ntm"] = [(N, 32, 16), (N, 1, 16), (N, 2, 32), (N, H), (N, H)]
    assert [leaf.shape for leaf in state] == sizes[name]
    counts = 1 if name == "attention" else 0
    assert all(leaf.dtype == torch.float64 for leaf in state[counts:])
    if name == "ntm":  # the slots hold a trace, and the heads are at the first of them
        assert (state[0] == 1e-6).all()
        assert (state[2][..., 0] == 1).all()
        state = (state[1], state[2][..., 1:], *state[3:])
    assert not any(leaf.any() for leaf in state)
    assert (core.input_size, core.output_size) == (F, H + 129 if name == "associative" else H)


def test_a_reset_is_where_it_was_asked_for(core: MemoryCore, name: str) -> None:
    state = begun(core)
    kept = [leaf.clone() for leaf in state]
    reset = core.reset(state, torch.tensor([False, True, False]))
    first = core.initial_state(N)
    if name == "attention":
        assert all(new is old for new, old in zip(reset[1:], state[1:], strict=True))  # no copies
    hidden = visible(name, reset)
    for new, old, before, begin in zip(hidden, state, kept, first, strict=True):
        assert torch.equal(new[1], begin[1])
        torch.testing.assert_close(new[[0, 2]], before[[0, 2]])
        torch.testing.assert_close(old, before)
        assert (before.flatten(1).abs().amax(dim=1) > 0).all()


def test_columns_do_not_mix(core: MemoryCore) -> None:
    inputs = sequence()
    first, _ = core(inputs, core.initial_state(N))
    inputs[0, 1] += 1.0
    second, _ = core(inputs, core.initial_state(N))
    torch.testing.assert_close(first[:, [0, 2]], second[:, [0, 2]])
    assert (first[:, 1] - second[:, 1]).abs().amax(dim=1).min() > 1e-6


def test_gradients_flow_back_to_the_first_input_but_not_over_a_reset(core: MemoryCore) -> None:
    first = sequence()[0].requires_grad_()
    _, state = core.step(first, core.initial_state(N))
    state = core.reset(state, torch.tensor([True, False, False]))
    outputs, _ = core(sequence()[1:], state)
    outputs[-1].square().sum().backward()
    assert not first.grad[0].any()
    assert (first.grad[1:].abs().amax(dim=1) > 0).all()
    assert all(weight.grad.abs().max() > 0 for weight in core.parameters())


@pytest.mark.parametrize("name", ["gru", "lstm", "mingru"])
def test_time_scales_are_spread_up_to_the_longest(name: str) -> None:
    """With no input, a unit whose bias is log(u) keeps u / (1 + u) of its memory in a step."""
    core = make_memory_core(name, F, 2000)
    for parameter in core.parameters():
        torch.nn.init.zeros_(parameter)
    core.set_time_scales(101, torch.Generator().manual_seed(0))
    first = core.initial_state(1)
    leaf = 1 if name == "lstm" else 0
    state = tuple(torch.ones_like(part) if i == leaf else part for i, part in enumerate(first))
    with torch.no_grad():
        _, after = core(torch.zeros(1, 1, F), state)
    kept = after[leaf][0]
    scales = kept / (1 - kept)
    assert 1.0 <= scales.min() < 2.0
    assert 99.0 < scales.max() < 100.1
    assert scales.mean() == pytest.approx(50.5, abs=2.0)
    if name == "lstm":  # what enters is small where much is kept
        enters = core.rnn.bias_hh_l0[:2000].sigmoid()
        torch.testing.assert_close(enters, 1 - kept, atol=1e-5, rtol=0)


def test_unknown_names_are_refused_with_what_exists() -> None:
    with pytest.raises(ValueError, match=r"'lsmt': did you mean 'lstm'\? gru, lstm"):
        make_memory_core("lsmt", F, H)
    with pytest.raises(ValueError, match=r"'transformer': gru, lstm.*exist"):
        make_memory_core("transformer", F, H)


def test_cores_with_files_of_their_own_are_found_in_the_package() -> None:
    """By name, as classes that may be subclassed; nothing else is."""
    from meta_rl.memory import AssociativeCore, AttentionCore, MinGRUCore, NTMCore

    assert type(make_memory_core("attention", F, H)) is AttentionCore
    assert type(make_memory_core("mingru", F, H)) is MinGRUCore
    assert type(make_memory_core("associative", F, H)) is AssociativeCore
    assert type(make_memory_core("ntm", F, H)) is NTMCore
    with pytest.raises(ImportError, match="NoSuchCore"):
        from meta_rl.memory import NoSuchCore  # noqa: F401
