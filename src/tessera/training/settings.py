"""What a stage of a run can be told. Every key is read; an unknown one is an error."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Decay = Annotated[float, Field(ge=0, lt=1)]
NAME = r"^[A-Za-z0-9_-]+$"  # of a stage


class Settings(BaseModel):
    """Base of all settings: frozen and strict; infinity and NaN are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OptimizerSettings(Settings):
    """AdamW, its schedule over the stage's steps, and gradient clipping (`max_grad_norm: null` is none).

    `kind: adamw_8bit` keeps AdamW's moments in 8 bits (bitsandbytes, on a CUDA device). With `carry` the stage begins
    with the moments that the last stage which trained ended with, at its own rate.
    """

    kind: Literal["adamw", "adamw_8bit"] = "adamw"
    lr: float = Field(1e-4, gt=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    max_grad_norm: float | None = Field(1.0, gt=0)
    carry: bool = False


class ReplaySettings(Settings):
    """Replays a step: `successes` and `failures` are C_success and C_failure of arXiv:2504.20834, sec. 3.3.

    `source: step` draws from this step's completions of the prompt, `buffer` from the newest `capacity` of the stage.
    """

    successes: int = Field(0, ge=0)
    failures: int = Field(0, ge=0)
    source: Literal["buffer", "step"] = "buffer"
    capacity: int = Field(4096, gt=0)


class PlateauSettings(Settings):
    """Stop the stage when the mean reward of the last `window` steps has not risen by `rise` in `patience` steps."""

    window: int = Field(20, gt=0)
    patience: int = Field(50, gt=0)
    rise: float = Field(0.01, ge=0)


class CurriculumSettings(Settings):
    """In which order problems are met, by the number in the column `by` of the data (greater is harder).

    `easiest_first` and `hardest_first` go through every problem in that order each epoch; `uniform` draws every
    difficulty as often as every other, or every one of `bins` of equal width; `growing` draws from the problems of at
    most a bound, which rises from `start` to `end` in `steps` steps.
    """

    by: str
    order: Literal["easiest_first", "hardest_first", "uniform", "growing"] = "easiest_first"
    bins: int | None = Field(None, gt=1)
    start: float | None = None
    end: float | None = None
    steps: int | None = Field(None, gt=0)
    missing: float | None = None

    @model_validator(mode="after")
    def _keys_have_their_order(self) -> CurriculumSettings:
        of = {"bins": "uniform", "start": "growing", "end": "growing", "steps": "growing"}
        for key, order in of.items():
            if getattr(self, key) is not None and self.order != order:
                raise ValueError(f"{key} goes with order: {order}, and would do nothing in {self.order}")
        return self


class RolloutSettings(Settings):
    """Which problems are asked, and what is done with rollouts before they are trained on (arXiv:2503.14476).

    A `curriculum` orders the problems by difficulty; without, every epoch meets them in a fresh random order.

    With `max_rounds` above 1, groups whose rewards are all equal are replaced by fresh problems (dynamic sampling, Eq.
    11): at most so many times a step are rollouts sampled, and the step trains on the groups that it has. The last
    `overlong_buffer` tokens before `max_new_tokens` cost linearly up to `overlong_penalty` (Eq. 13), added to the
    reward as its component `overlong`.

    With `keep_trunk` the frozen layers' output is kept while completions are sampled by the trainer's own model, so
    that an update need not compute it again: hidden size x bytes for every token of a step.

    With `ahead` an engine elsewhere samples the rollouts of the next step while this one updates: by weights that are
    a step old when they are trained on.

    A completion also ends with one of the texts of `stop`. `top_k`, `top_p` and `min_p` leave out unlikely tokens; the
    objective's log-probs are those of the whole distribution, so ratios would compare unlike things: refused unless
    `allow_truncated` is set, and then sampler and trainer are not compared.
    """

    curriculum: CurriculumSettings | None = None
    max_rounds: int = Field(1, gt=0)
    overlong_buffer: int | None = Field(None, gt=0)
    overlong_penalty: float = Field(1.0, gt=0)
    keep_trunk: bool = True
    ahead: bool = False
    stop: tuple[str, ...] = ()
    top_k: int | None = Field(None, gt=0)
    top_p: float | None = Field(None, gt=0, lt=1)
    min_p: float | None = Field(None, gt=0, le=1)
    allow_truncated: bool = False

    @model_validator(mode="after")
    def _truncation_by_name(self) -> RolloutSettings:
        cut = [name for name in ("top_k", "top_p", "min_p") if getattr(self, name) is not None]
        if cut and not self.allow_truncated:
            raise ValueError(
                f"{cut[0]} cuts the distribution that is sampled from, and the objective's log-probs are of the whole "
                "one: leave it out, or set allow_truncated: true"
            )
        if self.allow_truncated and not cut:
            raise ValueError("allow_truncated goes with top_k, top_p or min_p, and would do nothing without")
        return self

    @model_validator(mode="after")
    def _penalty_has_its_buffer(self) -> RolloutSettings:
        if self.overlong_penalty != 1 and self.overlong_buffer is None:
            raise ValueError("overlong_penalty goes with overlong_buffer, and would do nothing without it")
        return self


class SentinelSettings(Settings):
    """The limits of the watchers; see tessera.training.sentinels for what each one does."""

    mismatch: float = Field(0.1, gt=0, description="mean |sampler - trainer| log-prob of a token that stops the run")
    no_spread_steps: int = Field(20, gt=0, description="steps without reward spread in any group before a warning")
    truncation_rate: float = Field(0.5, gt=0, le=1, description="share of completions cut at the limit that warns")
    reward_failures: float = Field(0.5, ge=0, le=1, description="share of failed rewards in a step that stops the run")
    useless_calls: float = Field(0.5, ge=0, le=1, description="share of calls of tools that give nothing that warns")


class ComputeSettings(Settings):
    """Memory against time; neither changes loss or gradient.

    A micro-batch holds `tokens_per_microbatch` tokens. With `gradient_checkpointing` each trained layer is run again
    in backward, and only its input is kept. `offload_activations` keeps what backward needs in the host's memory.
    """

    tokens_per_microbatch: int = Field(8192, gt=0)
    gradient_checkpointing: bool = False
    offload_activations: bool = False


class HarvestSettings(Settings):
    """Which completions of an earlier RL stage an SFT stage learns (rejection sampling).

    Those that earned at least `threshold` (null: that solved their problem) and ended by themselves; of equal texts the
    first; of each problem at most `most`, by `pick`. `stage` names the RL stage; null: the nearest before.
    """

    stage: str | None = None
    threshold: float | None = None
    most: int = Field(4, gt=0)
    pick: Literal["shortest", "first", "random"] = "shortest"


class _Stage(Settings):
    name: str = Field(pattern=NAME)

    @field_validator("name")
    @classmethod
    def _not_taken(cls, name: str) -> str:
        if name in {"base", "final"}:
            raise ValueError("base and final name the first and last evaluation; call the stage something else")
        return name


class _TrainingStage(_Stage):
    optimizer: OptimizerSettings = OptimizerSettings()
    compute: ComputeSettings = ComputeSettings()


class SFTStage(_TrainingStage):
    """Supervised learning of completions: of the rows of `data`, of what is harvested from an earlier RL stage, or of
    both; without either, of the task's gold answers.

    As long as `steps`, or as `epochs` over what there is to learn. Stops early when greedy accuracy on the validation
    split, taken every `check_every` steps, is `stop_accuracy`.
    """

    kind: Literal["sft"] = "sft"
    name: str = Field("sft", pattern=NAME)
    steps: int | None = Field(None, gt=0)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(24, gt=0)
    data: str | None = None
    harvest: HarvestSettings | None = None
    stop_accuracy: float | None = Field(None, gt=0, le=1)
    check_every: int = Field(10, gt=0)

    @model_validator(mode="after")
    def _one_length(self) -> SFTStage:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self


class EvalStage(_Stage):
    """Greedy accuracy at this place, besides the evaluations that every run has: on another split, or at another
    length. Nothing is trained."""

    kind: Literal["eval"] = "eval"
    name: str = Field("eval", pattern=NAME)
    split: Literal["test", "validation"] = "test"
    size: int | None = Field(None, gt=0)
    max_new_tokens: int | None = Field(None, gt=0)


class RLStage(_TrainingStage):
    """Reinforcement learning with a group of completions a prompt.

    `score_temperature: sampling` takes log-probs of the distribution sampled from. `reference` is the policy at the
    start of the stage (`start_of_stage`), the model without adapter (`initial`) or the adapter in a folder, taken anew
    from the policy every `refresh_reference` steps when given.
    `updates_per_rollout` are the inner updates made with one batch of rollouts; from the second on ratios are not 1.
    `keep_best` ends the stage with the adapter of the best validation accuracy, seen every `evaluate_every` steps.
    """

    kind: Literal["rl"] = "rl"
    name: str = Field("rl", pattern=NAME)
    steps: int = Field(gt=0)
    algorithm: dict[str, Any]
    prompts_per_step: int = Field(1, gt=0)
    group_size: int = Field(8, gt=0)
    updates_per_rollout: int = Field(1, gt=0)
    max_new_tokens: int = Field(300, gt=0)
    rollouts: RolloutSettings = RolloutSettings()
    temperature: float = Field(1.0, gt=0)
    score_temperature: Literal["sampling"] | Annotated[float, Field(gt=0)] = "sampling"
    reference: str = Field("start_of_stage", min_length=1)
    refresh_reference: int | None = Field(None, gt=0)
    replay: ReplaySettings = ReplaySettings()
    plateau: PlateauSettings | None = None
    sentinels: SentinelSettings = SentinelSettings()
    evaluate_every: int | None = Field(None, gt=0)
    keep_best: bool = False

    @model_validator(mode="after")
    def _buffer_fits(self) -> RLStage:
        buffer = self.rollouts.overlong_buffer
        if buffer and buffer > self.max_new_tokens:
            raise ValueError(
                f"rollouts.overlong_buffer = {buffer} must not be above max_new_tokens = {self.max_new_tokens}"
            )
        return self

    @model_validator(mode="after")
    def _engine_is_free(self) -> RLStage:
        if self.rollouts.ahead and (self.replay.successes or self.replay.failures):
            raise ValueError(
                "rollouts.ahead keeps the engine busy with the next step, and replay needs it in this one: leave out "
                "one or the other"
            )
        return self

    @field_validator("algorithm", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class EvaluationSettings(Settings):
    """Greedy accuracy: on `test_size` test problems before, after each stage and at the end (null: all of them);
    on `validation_size` validation problems during a stage. Solved is a reward of at least `success`, or
    by default what the task calls correct."""

    max_new_tokens: int | None = Field(None, gt=0, description="null: the largest of the RL stages")
    test_size: int | None = Field(None, gt=0)
    validation_size: int | None = Field(None, gt=0)
    success: float | None = None


Stage = SFTStage | RLStage | EvalStage


class ReportSettings(Settings):
    """What groups.jsonl keeps for the credit view: so many `groups` of at most so many `tokens`, completions together,
    of at most so many `steps` of each RL stage, evenly spread."""

    steps: int = Field(40, ge=0)
    groups: int = Field(2, ge=0)
    tokens: int = Field(16384, gt=0)


class RunSettings(Settings):
    """Where the run is kept, how often it is saved, and how often an RL stage writes diagnostics.jsonl."""

    dir: str
    save_every: int = Field(10, gt=0)
    keep_checkpoints: int = Field(2, gt=0)
    max_rows: int = Field(128, gt=0, description="completions sampled at a time")
    graders: int = Field(0, ge=0, description="threads that grade what has ended while the rest is sampled")
    diagnostics_every: int | None = Field(None, gt=0)
