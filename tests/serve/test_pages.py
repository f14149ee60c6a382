"""Pages are never lost, never given twice, and a prefix is found exactly when it is there."""

from __future__ import annotations

from hashlib import blake2b

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from danlu.serve.pages import PAGE, Pages, chain, extend_keys, root

ORIGIN = root("model", "fp32")


def test_a_key_is_what_the_format_says():
    origin = blake2b(b"danlu-kv-1\0model\0fp32", digest_size=16).digest()
    assert root("model", "fp32") == origin
    page = b"".join(token.to_bytes(4, "little") for token in range(PAGE))
    assert chain(origin, range(PAGE)) == blake2b(origin + page, digest_size=16).digest()


def test_a_key_names_its_whole_prefix():
    first, second = list(range(PAGE)), list(range(PAGE, 2 * PAGE))
    keys: list[bytes] = []
    extend_keys(keys, ORIGIN, first + second + [1])
    assert keys == [chain(ORIGIN, first), chain(chain(ORIGIN, first), second)]
    other: list[bytes] = []
    extend_keys(other, root("model", "bf16"), first + second)
    assert not set(keys) & set(other)


class Bookkeeping(RuleBasedStateMachine):
    """Sequences over a tiny alphabet come, seal, and go; a plain model says what must be found."""

    @initialize(count=st.integers(1, 8))
    def start(self, count):
        self.pages = Pages(count)
        self.live: list[tuple[list[int], list[bytes], int]] = []  # pages, keys of the sequence, how many are sealed
        self.holds: dict[int, bytes] = {}  # what our own memory says each sealed page contains

    @rule(letters=st.lists(st.integers(0, 1), min_size=1, max_size=5))
    def begin(self, letters):
        keys: list[bytes] = []
        extend_keys(keys, ORIGIN, [letter for letter in letters for _ in range(PAGE)])
        known = {self.holds[page] for page in self.holds}
        longest = next((i for i, key in enumerate(keys) if key not in known), len(keys))
        found = self.pages.match(keys)
        assert [self.holds[page] for page in found] == keys[:longest], "a hit holds what was asked, and none is missed"
        before = self.pages.available
        more = self.pages.take(len(keys) - len(found))
        if more is None:
            assert before < len(keys) - len(found)
            self.pages.release(found)
            return
        assert len(set(found + more)) == len(keys)
        for pages, _, _ in self.live:
            assert not set(more) & set(pages), "a page in use was given again"
        for page in more:
            self.holds.pop(page, None)  # it may have been evicted
        self.live.append((found + more, keys, len(found)))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def seal_next(self, data):
        which = data.draw(st.integers(0, len(self.live) - 1))
        pages, keys, sealed = self.live[which]
        if sealed == len(keys):
            return
        use = self.pages.seal(pages[sealed], keys[sealed])
        if use != pages[sealed]:
            assert self.holds[use] == keys[sealed]
        pages[sealed] = use
        self.holds[use] = keys[sealed]
        self.live[which] = (pages, keys, sealed + 1)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data):
        pages, _, _ = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        self.pages.release(pages)

    @invariant()
    def every_page_is_in_one_place(self):
        if not hasattr(self, "pages"):
            return
        used = {page for pages, _, _ in self.live for page in pages}
        assert self.pages.taken == len(used)
        assert self.pages.available == self.pages.count - len(used)
        assert len(set(self.holds.values())) == len(self.holds), "one key, one page"

    def teardown(self):
        if hasattr(self, "pages"):
            for pages, _, _ in self.live:
                self.pages.release(pages)
            assert self.pages.taken == 0
            assert len(self.pages.take(self.pages.count) or []) == self.pages.count


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_the_tail_of_the_least_recently_used_prefix_is_evicted_first():
    pages = Pages(4)
    kept: dict[str, list[bytes]] = {}
    for name, letter in (("old", 1), ("new", 2)):
        keys: list[bytes] = []
        extend_keys(keys, ORIGIN, [letter] * 2 * PAGE)
        mine = pages.take(2)
        assert mine is not None
        pages.release([pages.seal(page, key) for page, key in zip(mine, keys, strict=True)])
        kept[name] = keys
    assert pages.take(1) is not None
    assert len(pages.match(kept["old"])) == 1
    assert len(pages.match(kept["new"])) == 2
