"""The catalogue of every error a user may see: what happened, where, why (with numbers), and what to do about it.

    DanluError
    ├── BadConfig        DL-CFG-...    exit 2   the run's text or flags
    ├── BadEnvironment   DL-ENV-...    exit 3   this machine lacks something
    ├── NoRoom           DL-MEM-...    exit 4   memory, disk, port
    ├── BadData          DL-DATA-...   exit 5   a file, a stream or a message we did not write as it stands
    └── Broken           DL-RUN-...    exit 70  a run that could not go on; DL-BUG-... a fault of danlu itself

A class is one entry; each has its own code, and a test that provokes it (tests/test_errors.py holds that).
"""

from __future__ import annotations

from typing import Self


class DanluError(Exception):
    """Base of every error a user may see.

    what   one sentence: what happened
    where  file:line, card, host or rank, when there is one
    why    the cause, with measured numbers
    fix    what to do, best a command to paste
    """

    code = "DL-000"
    exit_code = 70

    def __init__(self, what: str, *, why: str, fix: str, where: str = "") -> None:
        super().__init__(f"{self.code} {what}" + (f" ({where})" if where else "") + f"\n  why: {why}\n  try: {fix}")
        self.what, self.why, self.fix, self.where = what, why, fix, where

    def at(self, where: str) -> Self:
        """The same error with the place, which whoever read the text knows."""
        return type(self)(self.what, why=self.why, fix=self.fix, where=where)

    def as_dict(self) -> dict[str, str]:
        """The same, as flat JSON text: code, what, where, why, fix."""
        return {"code": self.code, "what": self.what, "where": self.where, "why": self.why, "fix": self.fix}


class BadConfig(DanluError):
    """The text of a run or its flags cannot be meant."""

    code, exit_code = "DL-CFG-000", 2


class UnknownKey(BadConfig):
    """A key that no section of the configuration has."""

    code = "DL-CFG-001"


class BadValue(BadConfig):
    """A value of the wrong type or out of range."""

    code = "DL-CFG-002"


class UnreadableConfig(BadConfig):
    """The configuration file is missing or is not YAML."""

    code = "DL-CFG-003"


class UnknownPlugin(BadConfig):
    """A name (family, vendor, filter, command) that no file of ours answers to."""

    code = "DL-CFG-004"


class BadFleet(BadConfig):
    """A Fleet YAML that cannot be meant: unknown field, impossible rate, a link to a card that is not there."""

    code = "DL-CFG-010"


class UnknownCard(BadConfig):
    """A card that the catalogue does not have, or a figure of one that nobody published."""

    code = "DL-CFG-012"


class UnknownSchedule(BadConfig):
    """An order of instructions that plan/schedule.py does not know."""

    code = "DL-CFG-011"


class BadShares(BadConfig):
    """Shares of a stage that cut a head, leave a card nothing, or do not sum to the model."""

    code = "DL-CFG-020"


class BadContext(BadConfig):
    """Parts of a sequence that do not come to a whole one, or whose pipelines cannot go in step."""

    code = "DL-CFG-021"


class BadEnvironment(DanluError):
    """This machine lacks something the command needs."""

    code, exit_code = "DL-ENV-000", 3


class MissingPackage(BadEnvironment):
    """A Python package of an extra is not installed."""

    code = "DL-ENV-001"


class BadPath(BadEnvironment):
    """A file or folder that the operating system would not let us use."""

    code = "DL-ENV-003"


class StoreInUse(BadEnvironment):
    """Another process writes the same store."""

    code = "DL-ENV-060"


class Unreachable(BadEnvironment):
    """An object store does not answer, or the address is none."""

    code = "DL-ENV-061"


class ProbeFailed(BadEnvironment):
    """A process that measures this machine ended before it was done."""

    code = "DL-ENV-010"


class NoNative(BadEnvironment):
    """The collectives that a kind of chip brings along are not in this torch."""

    code = "DL-ENV-081"


class NotShareable(BadEnvironment):
    """A model cannot run as several processes here: too few cores, another card, or no native engine."""

    code = "DL-ENV-100"


class NoRoom(DanluError):
    """Memory, disk or a port ran out."""

    code, exit_code = "DL-MEM-000", 4


class DoesNotFit(NoRoom):
    """The model needs more memory than the cards of the plan have."""

    code = "DL-MEM-001"


class ShortBatch(DoesNotFit):
    """A pipeline has more stages than its step has micro-batches, and no shorter one fits or was allowed."""

    code = "DL-MEM-004"


class DiskFull(NoRoom):
    """A write met a full disk; what was there before is untouched."""

    code = "DL-MEM-002"


class PortInUse(NoRoom):
    """Another process listens on the port asked for."""

    code = "DL-MEM-003"


class Overloaded(NoRoom):
    """More requests wait than the server keeps; `retry_after_s` is its forecast of when to come back."""

    code = "DL-MEM-100"

    def __init__(self, what: str, *, why: str, fix: str, where: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(what, why=why, fix=fix, where=where)
        self.retry_after_s = retry_after_s


class BadData(DanluError):
    """A file, a stream or a message does not hold what its format promises."""

    code, exit_code = "DL-DATA-000", 5


class BadRequest(BadData):
    """A request to the server that cannot be meant, or asks for what the server does not do; `field` is the one."""

    code = "DL-DATA-100"

    def __init__(self, what: str, *, why: str, fix: str, where: str = "", field: str | None = None) -> None:
        super().__init__(what, why=why, fix=fix, where=where)
        self.field = field


class PromptTooLong(BadData):
    """A prompt and the answer asked for are longer than the context."""

    code = "DL-DATA-101"


class UnknownModel(BadData):
    """A request names a model that this server does not serve."""

    code = "DL-DATA-102"


class UnprovedPlan(BadData):
    """A certificate of a plan's gap that does not hold: a stage that does not fit, a bound that is not one."""

    code = "DL-DATA-030"


class UnreadablePlan(BadData):
    """A Plan JSON that is not one: another version, an unknown field, stages that do not cover the model."""

    code = "DL-DATA-010"


class BadRows(BadData):
    """A CSV of published runs that is not one: a column is missing, a number is none, nothing is left to score."""

    code = "DL-DATA-011"


class BadModel(BadData):
    """A model's config.json is missing, unreadable, or contradicts itself."""

    code = "DL-DATA-020"


class UnsupportedModel(BadData):
    """A model asks for something its family's file or the decoder does not have."""

    code = "DL-DATA-021"


class BadTensorFile(BadData):
    """A safetensors file or its index does not hold what its header promises."""

    code = "DL-DATA-022"


class BadGguf(BadData):
    """A GGUF file does not hold what its header promises, or keeps what danlu cannot read."""

    code = "DL-DATA-026"


class WrongWeights(BadData):
    """The tensors of a folder are not those of its model: missing, left over, or of another shape."""

    code = "DL-DATA-023"


class BadTokenizer(BadData):
    """A tokenizer or its chat template cannot be read, or its ids are not those of the model."""

    code = "DL-DATA-024"


class BadMessages(BadData):
    """Chat messages that the model's template refuses."""

    code = "DL-DATA-025"


class DamagedSnapshot(BadData):
    """A checkpoint is incomplete, or its bytes are not those that were written."""

    code = "DL-DATA-060"


class NoSuchTensor(BadData):
    """A checkpoint does not hold a tensor the model needs."""

    code = "DL-DATA-061"


class NewerFormat(BadData):
    """A file was written by a newer danlu than this one."""

    code = "DL-DATA-062"


class WeightsNotFinite(BadData):
    """Weights that are NaN or infinite, which no 4-bit code can hold."""

    code = "DL-DATA-040"


class WrongNf4(BadData):
    """The parts of a quantized matrix do not belong together, or one is missing."""

    code = "DL-DATA-041"


class DamagedPack(BadData):
    """A pack of small files is incomplete, or its bytes are not those that were written."""

    code = "DL-DATA-063"


class NoText(BadData):
    """The text folders hold nothing that can be learned from."""

    code = "DL-DATA-064"


class DamagedTokens(BadData):
    """A token file is missing, incomplete, or not the one its manifest describes."""

    code = "DL-DATA-065"


class TooFewTokens(BadData):
    """The text gives fewer tokens than one batch takes."""

    code = "DL-DATA-066"


class OtherTokens(BadData):
    """A run is to be resumed on other tokens, or in another order, than it was started with."""

    code = "DL-DATA-067"


class NoStore(BadData):
    """A folder that should hold packs has no manifest of a store."""

    code = "DL-DATA-068"


class NoSuchRecord(BadData):
    """A store has no record of that key."""

    code = "DL-DATA-069"


class Broken(DanluError):
    """A run could not go on."""

    code, exit_code = "DL-RUN-000", 70


class BadMessage(Broken):
    """A message between ranks is damaged, of another wire version or of another shape."""

    code = "DL-RUN-010"


class OtherRank(Broken):
    """A rank runs by another job, or began with other weights, than the rest."""

    code = "DL-RUN-015"


class CardAway(Broken):
    """A card whose rank dies again and again, or whose host is gone; `cards` are the names of those that are lost."""

    code = "DL-RUN-016"

    def __init__(self, what: str, *, why: str, fix: str, where: str = "", cards: tuple[str, ...] = ()) -> None:
        super().__init__(what, why=why, fix=fix, where=where)
        self.cards = cards


class LateRank(Broken):
    """A rank did not send, join or answer in the time allowed."""

    code = "DL-RUN-011"


class HostMissing(BadEnvironment):
    """No helper answers on a host that a job needs."""

    code = "DL-ENV-020"


class LaunchFailed(BadEnvironment):
    """A launcher (Slurm, Ray, ssh) is missing or refused the job."""

    code = "DL-ENV-021"


class RankLost(Broken):
    """A rank keeps dying, or ended by a fault of our own."""

    code = "DL-RUN-012"


class Bug(Broken):
    """A fault of danlu itself: an exception that nothing foresaw. Its traceback is in a file, to be reported."""

    code = "DL-BUG-001"


class PartFailed(Broken):
    """A process that cleaned a part of the text ended without having done it."""

    code = "DL-RUN-014"


class ServerRefused(Broken):
    """A server we asked did not answer, or answered with an error."""

    code = "DL-RUN-001"


class OtherModel(BadConfig):
    """A snapshot of another model than the run's."""

    code = "DL-CFG-080"


class RunExists(BadConfig):
    """The run's folder already holds snapshots, and nothing was said about going on from them."""

    code = "DL-CFG-081"


class NotRunnable(BadConfig):
    """A plan that `danlu train` cannot execute yet: selective recomputation, an element type without kernels."""

    code = "DL-CFG-085"


class NotFinite(BadConfig):
    """The loss or the gradient is no number any more: the run's rates do not suit its model."""

    code = "DL-CFG-086"


class NoFloat8(BadEnvironment):
    """A plan multiplies 8-bit floats on a card that cannot."""

    code = "DL-ENV-080"


class UnreadableJob(BadData):
    """The job file that every process of a training job reads cannot be used."""

    code = "DL-DATA-080"


class AnswerFailed(Broken):
    """An accepted request got no whole answer: the engine failed, or the server stopped."""

    code = "DL-RUN-100"


class ServerNotReady(Broken):
    """A server that was started ended or stayed silent before it was ready."""

    code = "DL-RUN-101"
