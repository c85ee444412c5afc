"""Would the tests notice? Each line of the table breaks the source in one place; some test must fail.

A mutation that survives is a missing test. The old text must occur exactly once, so that the table cannot rot.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src" / "tessera"

MUTATIONS = {
    # advantage: sign, degrees of freedom, eps, what the deviations are from, exact zeros
    "pieces/advantage.py": [
        ("return rewards_B - mean[group_B],", "return mean[group_B] - rewards_B,"),
        ('(1 if std == "sample" else 0)', '(0 if std == "sample" else 1)'),
        ('(1 if std == "sample" else 0)', "1"),
        ("std)[batch.group_B] + eps)", "std)[batch.group_B])"),
        ("std)[batch.group_B] + eps)", "std)[batch.group_B] - eps)"),
        ("_std(deviation_B, one_group_B, 1, std) + eps", "_std(deviation_B, one_group_B, 1, std)"),
        ("deviation_B = batch.rewards_B - batch.rewards_B.mean()", "deviation_B = centred_B"),
        ("_to_tokens(blank(centred_B, spread_B), batch)", "_to_tokens(centred_B, batch)"),
        ('"amax") > group_extreme(', '"amax") >= group_extreme('),
        ("rewards_B / group_size(group_B, n)[group_B]", "rewards_B / len(rewards_B)"),
        ("(squares / degrees).sqrt()", "(squares / degrees)"),
        ("(deviation_B / largest[group_B]).square()", "(deviation_B / largest[group_B]).abs()"),
        ("(largest * (squares / degrees).sqrt()).clamp(min=tiny)", "largest * (squares / degrees).sqrt()"),
        ("return blank(advantage_BT, batch.mask_BT)", "return advantage_BT"),
        ("size_B / (size_B - 1)", "size_B / size_B"),
        ("advantage_BT if floor is None else blank(", "advantage_BT if floor is not None else blank("),
        ("+ 1 - survives_BT", "+ survives_BT"),
        ("(1, 0), value=1.0)[:, :-1]", "(1, 0), value=1.0)[:, 1:]"),
        ("return blank(x_B[:, None].expand(batch.mask_BT.shape), batch.mask_BT)",
         "return x_B[:, None].expand(batch.mask_BT.shape)"),
    ],
    # trace: powers, the diagonal, where a span begins, what is carried between blocks
    "core/trace.py": [
        ("(power_T >= floor).sum()) - 1", "(power_T >= floor).sum())"),
        ("m_T = (t_T + 1) // 2", "m_T = t_T // 2"),
        ("torch.maximum(m_T, t_T - near)", "m_T"),
        ("decay ** (t_T - start_T + 1)", "decay ** (t_T - start_T)"),
        ("floor * (_before(all_BT, start_T) - _before(all_BT, m_T))", "floor * _before(all_BT, start_T)"),
        ("power_T.clamp(min=floor) * x_BT", "power_T * x_BT"),
        ("decayed_sum(inside[:, :, -1], decay**size)", "decayed_sum(inside[:, :, -1], decay)"),
        ("torch.arange(1, size + 1,", "torch.arange(0, size,"),
        ("decay**reach *", "decay *"),
        ("torch.where(keep_BT, policy_position(keep_BT), width)",
         "torch.where(keep_BT, torch.arange(width).expand_as(keep_BT), width)"),
    ],
    "core/covariance.py": [
        ("logp_BT - of_rows(group_mean(logp_BT, keep_BT, of_B, n), of_B)", "logp_BT"),
        ("advantage_BT - of_rows(group_mean(advantage_BT, keep_BT, of_B, n), of_B)", "advantage_BT"),
        ('if scope == "group" else', 'if scope == "step" else'),
    ],
    "pieces/weight.py": [
        ("return torch.ones_like(scored.logp_BT)\n\n\n@", "return torch.zeros_like(scored.logp_BT)\n\n\n@"),
        ("return 0.5 + scored.draw_BT", "return 1.0 + scored.draw_BT"),
        ('if scale == "multiply" else', 'if scale == "divide" else'),
        ("torch.sigmoid(scaled_BT) - mu", "torch.sigmoid(scaled_BT)"),
        (".clamp(lower, upper)", ".clamp(min=lower)"),
        ('weight_BT if variant == "shaped" else 2 - weight_BT', "weight_BT"),
        ("-c_BT.square() / (2 *", "-c_BT.square() / (1 *"),
        ("(std <= SMALLEST_SPREAD) | (mean == 0)", "mean == 0"),
        ("weight_BT = kernel_BT / of_rows(torch.where(equal, 1.0, mean), of_B)", "weight_BT = kernel_BT"),
        ("c_BT >= cov_low", "c_BT > cov_high"),
        ("c_BT <= cov_high", "c_BT <= cov_low"),
        ("rank_BT < dropped", "rank_BT <= dropped"),
        ("torch.where(within_BT, scored.draw_BT, 2.0)", "scored.draw_BT"),
    ],
    # selection: comparisons, off by one, precedence of the two rules, what is drawn for whom, duplicates, tools
    "pieces/selection.py": [
        ("return batch.mask_BT\n", "return torch.ones_like(batch.mask_BT)\n"),
        ("position_BT >= cutoff", "position_BT > cutoff"),
        ("generator) < probability", "generator) > probability"),
        ("<= max_selected", "< max_selected"),
        ("early_B1 + drawn_BT", "drawn_BT"),
        ("(batch.mask_BT & ~late_BT) | (drawn_BT & room_BT)", "((batch.mask_BT & ~late_BT) | drawn_BT) & room_BT"),
        ("policy_position(batch.mask_BT)", "torch.arange(batch.mask_BT.shape[1]).expand(batch.mask_BT.shape)"),
        ("if mask[row][t] and node not in seen", "if mask[row][t]"),
        ("if mask[row][t] and node not in seen", "if node not in seen"),
        ("    for rows, trie in batch.tries:\n        seen: set[int] = set()",
         "    seen: set[int] = set()\n    for rows, trie in batch.tries:"),
        ("(advantage_BT != 0)", "(advantage_BT > 0)"),
        ('if pairs == "informative" else', 'if pairs == "all" else'),
    ],
    # surrogate: side of the clip, its bounds, min and max, ratio, weight, stop-gradient
    "pieces/surrogate.py": [
        ("torch.minimum(plain", "torch.maximum(plain"),
        ("else 1 - clip_low", "else 1 + clip_low"),
        ("else 1 + clip_high", "else 1 - clip_high"),
        ("else 1 + clip_high", "else 1 + (clip_low or 0.0)"),
        ("-LARGEST_TRACE_EXPONENT, LARGEST_TRACE_EXPONENT", "-1e9, LARGEST_TRACE_EXPONENT"),
        ("torch.minimum(ratio_BT, bound_BT) * credit_BT", "torch.minimum(ratio_BT * credit_BT, bound_BT * credit_BT)"),
        ("scored.weight_BT * _ratio(scored), scored.advantage_BT", "_ratio(scored), _credit(scored)"),
        ('torch.sigmoid if soft_clamp == "sigmoid" else torch.tanh', "torch.sigmoid"),
        ("(scored.logp_BT - 1)", "(scored.logp_BT)"),
        ("gamma * lambda_, trace, trace_floor)\n    ratio_BT", "lambda_, trace, trace_floor)\n    ratio_BT"),
        ('if weight_form == "matrix":', "if True:"),
        ("eligibility_BT * terms", "eligibility_BT.detach() * terms"),
        ("difference_BT.sum(dim=1) / row_count(keep_BT).clamp(min=1)", "difference_BT.sum(dim=1)"),
        ("ratio_BT = _ratio(scored).detach()", "ratio_BT = _ratio(scored)"),
        ("bound_BT * _credit(scored) * scored.logp_BT", "ratio_BT * _credit(scored) * scored.logp_BT"),
        ("return 0.0 if clip_low is None", "return 1.0 if clip_low is None"),
        ("bounded_exp(scored.logp_BT - scored.old_BT)", "bounded_exp(scored.old_BT - scored.logp_BT)"),
        ("bounded_exp(scored.logp_BT - scored.old_BT)", "torch.exp(scored.logp_BT - scored.old_BT)"),
        ("return scored.weight_BT * scored.advantage_BT", "return scored.advantage_BT"),
        ("ratio_BT * credit_BT, bound_BT * credit_BT", "ratio_BT * credit_BT, bound_BT"),
        ("bound_BT < plain_BT", "bound_BT > plain_BT"),
        ("(credit_BT < 0), binds_BT & (credit_BT > 0)", "(credit_BT > 0), binds_BT & (credit_BT < 0)"),
        ("scored.logp_BT - scored.logp_BT.detach()", "scored.logp_BT - scored.logp_BT"),
        ("scored.logp_BT - scored.logp_BT.detach()", "scored.logp_BT - scored.old_BT"),
        ("_unclipped(ratio_BT * _credit(scored))", "_unclipped(ratio_BT * scored.advantage_BT)"),
        ("torch.exp(scored.logp_BT) * _credit(scored)", "scored.logp_BT * _credit(scored)"),
        ("torch.exp(scored.logp_BT) * _credit(scored)", "torch.exp(scored.logp_BT) * scored.advantage_BT"),
        ("torch.exp(scored.logp_BT) * _credit(scored)", "torch.exp(scored.logp_BT - scored.old_BT) * _credit(scored)"),
    ],
    # regulariser: the three estimators, direction, strength, norm
    "pieces/regulariser.py": [
        ("return -difference_BT", "return difference_BT"),
        ("difference_BT.square() / 2", "difference_BT.square()"),
        ("torch.expm1(difference_BT) - difference_BT", "torch.expm1(difference_BT) + difference_BT"),
        ("torch.expm1(difference_BT) - difference_BT", "torch.exp(difference_BT) - difference_BT"),
        ("torch.expm1(difference_BT) - difference_BT", "torch.exp(difference_BT) - difference_BT - 1"),
        ("difference_BT.clamp(max=LARGEST_EXPONENT)", "difference_BT"),
        ("+ scored.weight_BT.log()", ""),
        ("beta * scored.weight_BT * kl_estimate", "beta * kl_estimate"),
        ("return beta * kl_estimate(scored.ref_BT - scored.logp_BT, e", "return kl_estimate(-scored.logp_BT, e"),
        ("scored.ref_BT - scored.logp_BT, estimator", "scored.logp_BT - scored.ref_BT, estimator"),
        ("scored.ref_BT - scored.logp_BT, estimator", "scored.ref_BT - scored.logp_BT"),
        ("matrix.square().sum()", "matrix.square().mean()"),
        ("matrix.square().sum()", "matrix.norm()"),
        ("strength * torch.stack", "torch.stack"),
        ('"kl", "ref_logp")', '"kl")'),
        ('"l2", "parameters")', '"l2")'),
    ],
    "pieces/importance_correction.py": [
        ("ratio_BT.clamp(max=cap)", "ratio_BT.clamp(1 / cap, cap)"),
        ("ratio_BT >= low", "ratio_BT > low"),
        ("ratio_BT <= high", "ratio_BT < high"),
    ],
    "core/importance.py": [
        ("old_BT - sampler_BT\n", "sampler_BT - old_BT\n"),
        ("sampler_BT.isfinite()", "~sampler_BT.isnan()"),
        ("bounded_exp(torch", "torch.exp(torch"),
        ("float(factor_N.sum()) ** 2", "float(ratio_N.sum()) ** 2"),
        (" & (factor_N != 0)", ""),
    ],
    # aggregation: denominators, selected tokens or all tokens, nothing selected
    "pieces/aggregation.py": [
        ("row_count(selected_BT) * batch.n_groups)", "row_count(selected_BT))"),
        ("_rows_of_group(batch) * row_count(selected_BT)", "row_count(selected_BT)"),
        ("_rows_of_group(batch) * row_count(selected_BT)", "_rows_of_group(batch) * row_count(batch.mask_BT)"),
        ("_rows_of_group(batch) * row_count(selected_BT)", "len(batch.group_B) * row_count(selected_BT)"),
        ("group_sum(row_count(selected_BT)", "group_sum(row_count(batch.mask_BT)"),
        ("tokens[batch.group_B] * batch.n_groups", "tokens[batch.group_B]"),
        ("row_count(selected_BT).sum().expand", "row_count(selected_BT).max().expand"),
        ("_rows_of_group(batch) * max_tokens", "batch.lengths_B * max_tokens"),
        ("max_tokens * batch.n_groups", "max_tokens"),
        ("denominator_B.clamp(min=1)", "denominator_B"),
        ("share_B[:, None] * selected_BT", "share_B[:, None] * batch.mask_BT"),
    ],
    "pieces/registry.py": [
        ("include_extras=True", "include_extras=False"),
        ('if first["type"] == "missing"', 'if first["type"] == "absent"'),
    ],
    # trie: which means are compared, exactness, who is counted where
    "core/trie.py": [
        ("self.total[node] * self.count[up] - self.total[up] * self.count[node]",
         "self.total[up] * self.count[node] - self.total[node] * self.count[up]"),
        ("(self.count[node] * self.count[up] * self.denominator)", "(self.count[node] * self.count[up])"),
        ("(self.count[node] * self.count[up] * self.denominator)", "(self.count[node] * self.denominator)"),
        ("numerator / (self.count[node] * self.count[up] * self.denominator)",
         "(self.total[node] / self.count[node] - self.total[up] / self.count[up]) / self.denominator"),
        ("up = self.parent[node]", "up = ROOT"),
        ("if self.count[node] == self.count[up]", "if self.count[node] == 1"),
        ("max((ratio.denominator", "min((ratio.denominator"),
        ("[len(rows)], [sum(values)]", "[len(rows) - 1], [sum(values)]"),
        ("step = (node, v)", "step = (len(path), v)"),
        ("parent.append(node)", "parent.append(ROOT)"),
        ("count[node] += 1", "count[node] = 1"),
        ("total[node] += value", "total[node] = value"),
    ],
    "core/masking.py": [
        ("torch.where(keep, x, torch.full_like(x, fill))", "x * keep"),
        ("x.clamp(max=LARGEST_EXPONENT)", "x"),
        ("cumsum(dim=1) - 1", "cumsum(dim=1)"),
        ("include_self=False", "include_self=True"),
        ("index_add(0, group_B, x_B)", "index_copy(0, group_B, x_B)"),
    ],
    "core/batch.py": [
        ("tokens[i][: lengths[i]]", "tokens[i]"),
        ("if group == g]", "if group >= g]"),
        ("self.rewards_B.clamp(-LARGEST_REWARD, LARGEST_REWARD)", "self.rewards_B"),
    ],
    "core/checks.py": [("if size < 2", "if size < 1"), ("~torch.isfinite(x) & where", "~torch.isfinite(x)")],
    # the composition: plan, weigh, learn
    "algorithms/base.py": [
        ("        if self.penalises_tokens:\n            return selected_BT\n", "        return selected_BT\n"),
        ("        if self.penalises_tokens:\n            return selected_BT\n", ""),
        ("selected_BT & (advantage_BT != 0)", "selected_BT & (advantage_BT > 0)"),
        ("self.aggregation(batch, selected_BT)", "self.aggregation(batch, batch.mask_BT)"),
        ("logp_BT=scored.logp_BT.detach()", "logp_BT=scored.logp_BT"),
        ("blank(self.weight(detached), scored.selected_BT)", "self.weight(detached)"),
        ("loss_BT = -(terms.objective_BT", "loss_BT = (terms.objective_BT"),
        ("importance.factor_BT * terms", "importance.ratio_BT * terms"),
        ("importance_ratio(scored.old_BT, sampler_BT)", "importance_ratio(scored.logp_BT.detach(), sampler_BT)"),
        ("loss_BT + self.regulariser(scored)", "loss_BT - self.regulariser(scored)"),
        ("blank(loss_BT, keep_BT)", "loss_BT"),
        ("low & keep_BT", "low"),
        ("terms.clipped_low_BT, terms.clipped_high_BT,", "terms.clipped_low_BT, terms.clipped_low_BT,"),
        ('and "parameters" not in', 'or "parameters" not in'),
        ('if "parameters" in self.regulariser.needs', 'if "parameters" not in self.regulariser.needs'),
        ('if "group" in self.needs', 'if "groups" in self.needs'),
    ],
    "algorithms/score.py": [
        ("< lengths[:, None]", "<= lengths[:, None]"),
        ("(lengths > T)", "(lengths >= T)"),
        ("keep = keep & mask", "keep = mask"),
        ("blank(logp, keep)", "logp"),
        ("blank(old_logp.detach().to(logp.dtype), keep)", "fixed_BT"),
        ("blank(ref_logp.detach().to(logp.dtype), keep)", "fixed_BT"),
        ("blank(sampler_logp.detach().to(logp.dtype), keep)", "fixed_BT"),
        ("fixed_BT = logp_BT.detach()", "fixed_BT = logp_BT"),
        ("torch.promote_types(logp.dtype, torch.float32)", "logp.dtype"),
        ('generator(seed, "selection")', 'generator(0, "selection")'),
        ("float(terms.clipped_high_BT.sum()) / count", "float(terms.clipped_high_BT.sum())"),
        ("scored.ref_BT - scored.logp_BT.detach()", "scored.old_BT - scored.logp_BT.detach()"),
    ],
    "algorithms/registry.py": [
        ("not (k in own and isinstance(settings[k], str))", "k not in own"),
        ("not (k in own and isinstance(settings[k], str))", "True"),
    ],
    "algorithms/grpo.py": [
        ("config.clip_low, clip_high=config.clip_high", "config.clip_high, clip_high=config.clip_low"),
        ("beta: Strength = 0.0", "beta: Strength = 0.01"),
        ('"sequence_mean"\n    max_tokens', '"token_mean"\n    max_tokens'),
        ("std=config.std, eps=config.eps", "eps=config.eps"),
    ],
    "algorithms/tr_grpo.py": [
        ('if config.clip_form == "weighted" else', 'if config.clip_form == "ratio" else'),
        ('"weighted_kl" if config.kl_form == "printed" else', '"weighted_kl" if config.kl_form == "scaled" else'),
        ('make("aggregation", "token_mean")', 'make("aggregation", "sequence_mean")'),
    ],
    "algorithms/grpo_lambda.py": [
        ('"value_bounded" if config.value_bound else', '"floored" if config.value_bound else'),
        ('"trace_weight" if own else "trace_ratio"', '"trace_ratio" if own else "trace_weight"'),
    ],
    "algorithms/dr_grpo.py": [('scale="none"', 'scale="group"')],
    "algorithms/cw_grpo.py": [("scope=config.scope", 'scope="group"')],
    "algorithms/gspo.py": [("clip_low: Clip = 3e-4", "clip_low: Clip = 4e-4")],
    "algorithms/s_grpo.py": [
        ('make("aggregation", "sequence_mean")', 'make("aggregation", "token_mean")'),
        ('make("surrogate", "detached_ratio")', 'make("surrogate", "clipped_ratio")'),
        ("cutoff: int = Field(50", "cutoff: int = Field(51"),
        ("std=config.std, eps=config.eps", "std=config.std"),
    ],
    "algorithms/t_spmo.py": [
        ('make("aggregation", "token_mean")', 'make("aggregation", "sequence_mean")'),
        ('make("surrogate", "probability")', 'make("surrogate", "detached_ratio")'),
        ('= "informative"', '= "all"'),
    ],
}  # fmt: skip
TABLE = [(file, old, new) for file, changes in MUTATIONS.items() for old, new in changes]


@pytest.fixture(scope="module")
def server():
    """Ask it about a mutation: the outcome, and the test that failed first."""
    command = [sys.executable, str(HERE / "forkserver.py")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(mutation):
        process.stdin.write(json.dumps(mutation) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, "the server ended; run forkserver.py by hand to see why"
        return json.loads(line)

    yield ask
    process.stdin.close()
    process.wait(timeout=30)


def test_every_place_is_named_once_and_every_change_is_one():
    places = Counter((file, old, (SOURCE / file).read_text(encoding="utf-8").count(old)) for file, old, _ in TABLE)
    assert [(file, old, n) for file, old, n in places if n != 1] == []
    assert [change for change, n in Counter(TABLE).items() if n > 1 or change[1] == change[2]] == []
    assert len(TABLE) >= 35


def test_the_unchanged_source_passes(server):
    assert server(None) == ["passed", ""]


@pytest.mark.parametrize("mutation", TABLE, ids=[f"{file}-{i}" for i, (file, _, _) in enumerate(TABLE)])
def test_some_test_fails(server, mutation):
    outcome, _ = server(mutation)
    assert outcome == "failed", "{}: {!r} -> {!r} survived".format(*mutation)
