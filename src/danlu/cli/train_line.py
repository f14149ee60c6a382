"""The progress line of a training run: where it stands, what it costs, what is left."""

from __future__ import annotations

from statistics import median

from danlu.cli.output import Progress, size, span
from danlu.plan.forecast import summed_alone
from danlu.plan.ranks.seats import seats
from danlu.train.job import TrainJob
from danlu.train.result import Step

RECENT = 16  # steps whose median is the speed shown


class StepLine:
    """Turns steps into the progress line.

    The share is of the plan's forecast of its cards' stand-alone speeds, added up; a run whose cards were never probed
    has such a forecast only as good as what its Fleet YAML declares.
    """

    def __init__(self, line: Progress, job: TrainJob) -> None:
        self._line, self._job, self._recent, self._epoch = line, job, list[float](), 0
        self._saved, self._saved_at = -1, 0.0
        self._alone = summed_alone(job.plan)
        self._cards = [job.card(rank) for rank in range(len(seats(job.plan)))]

    def step(self, done: Step) -> None:
        """Show one step. Times are monotonic; a step that was rewound to comes again with a higher epoch."""
        if self._epoch and done.epoch > self._epoch:
            self._line.show(f"a rank was lost: all went on from the snapshot of step {done.saved}", force=True)
        if done.saved != self._saved:
            self._saved, self._saved_at = done.saved, done.ended
        if done.epoch == self._epoch:
            self._recent = [*self._recent, done.seconds][-RECENT:]
        self._epoch = done.epoch
        self._line.show("  ".join(self.words(done)), force=done.step == self._job.steps)

    def words(self, done: Step) -> list[str]:
        """The parts of the line."""
        job, forecast = self._job, self._job.plan.forecast
        seconds = median(self._recent or [done.seconds])
        speed = job.tokens_per_step / seconds
        share = [f"{speed / self._alone:.0%} of its cards' own speeds{self._label}"] if self._alone else []
        return [
            f"step {done.step}/{job.steps}", f"loss {done.loss:.3f}", f"{speed:,.0f} tokens/s", *share,
            f"step {span(seconds)}" + (f" (forecast {span(forecast.step_s)})" if forecast else ""),
            *self._memory(done), f"ETA {span((job.steps - done.step) * seconds)}",
            f"snapshot {span(done.ended - self._saved_at)} old" if done.saved else "no snapshot yet",
        ]  # fmt: skip

    @property
    def _label(self) -> str:
        return f" ({self._job.plan.emulated})" if self._job.plan.emulated else ""

    def _memory(self, done: Step) -> list[str]:
        """The fullest card, and the snapshots in host memory."""
        if not done.peaks:
            return []
        full = max(zip(done.peaks, self._cards, strict=True), key=lambda each: each[0] / each[1].mem_bytes)
        card = f"memory {size(full[0])} of {size(full[1].mem_bytes)} on {full[1].name}"
        return [card + (f", {size(done.host_bytes)} on hosts" if done.host_bytes else "")]
