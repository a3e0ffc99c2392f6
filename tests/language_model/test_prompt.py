"Prompts: properties against a slow oracle, faults, and the traps that concern them."

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from contrec.data.interactions import Ragged
from contrec.data.reading import NAMED_CATEGORIES
from contrec.foundations.errors import ConfigError, DataError
from contrec.language_model.prompts import (
    ITEM,
    TEMPLATES,
    USER,
    Prompts,
    Template,
    parse_answer,
    word_tokenizer,
)

N = 9
KINDS = ("Action", "Children's", "Comedy", "Film-Noir", "Science Fiction")
ITEMS = pd.DataFrame(
    {
        "title": [
            f"Story {'very ' * (i % 3)}number {i} (19{60 + i})" for i in range(N)
        ],
        "categories": [
            tuple(sorted({KINDS[i % 5], KINDS[i * i % 3]})) if i else ()
            for i in range(N)
        ],
    }
)
SETTINGS = settings(max_examples=40, deadline=None)


def prompts_for(name="both", tokens=2, **options):
    template = TEMPLATES[name] if isinstance(name, str) else name
    return Prompts(template, word_tokenizer(template, ITEMS), ITEMS, tokens, **options)


PROMPTS = {
    (name, k): prompts_for(name, k, user_tokens=2) for name in TEMPLATES for k in (1, 3)
}


def bpe_tokenizer():
    """Like a pre-trained model's.

    Byte-level, a beginning that it adds by itself, no padding token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        [" ".join(ITEMS["title"])] * 3,
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    from tokenizers import decoders

    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )


class SlowWriter:
    "Write one prompt as a list of (kind, word or slot), without the library's tables."

    def __init__(self, text):
        self.text, self.out = text, []

    def add_words(self, words, kind="word"):
        ids = self.text(words, add_special_tokens=False)["input_ids"] if words else []
        self.out.extend((kind, i) for i in ids)

    def fill(self, pattern, kind="word", **values):
        while pattern:
            marks = ["{" + name + "}" for name in values]
            cut = min((pattern.find(m) for m in marks if m in pattern), default=-1)
            if cut < 0:
                self.add_words(pattern, kind)
                return
            self.add_words(pattern[:cut], kind)
            name = pattern[cut + 1 : pattern.index("}", cut)]
            if isinstance(values[name], str):
                self.add_words(values[name], kind)
            else:
                self.out.extend(values[name])
            pattern = pattern[pattern.index("}", cut) + 1 :]


def slow(prompts, history, target):
    "Return (kind, word or slot) of every position, and the condition positions."
    t, k, ends = prompts.template, prompts.tokens, []
    writer = SlowWriter(prompts.text)
    writer.add_words(t.prefix)
    for j, i in enumerate(history):
        if j:
            writer.add_words(t.separator)
        slots = [("item", i * k + n) for n in range(k)]
        writer.fill(t.item, title=ITEMS["title"][i], tokens=slots)
        ends.append(len(writer.out) - 1)
    if target is not None or not t.uses_next:
        user = [("user", n) for n in range(prompts.user_tokens)]
        following = [("item", (target or 0) * k + n) for n in range(k)]
        writer.fill(t.suffix, user=user, next=following)
    if t.condition != "item":
        ends[-1] = len(writer.out) - 1
    if target is not None and ITEMS["categories"][target]:
        categories = t.join.join(ITEMS["categories"][target])
        title = ITEMS["title"][target]
        writer.fill(t.answer, "answer", categories=categories, title=title)
        writer.out.append(("answer", prompts.text.eos_token_id))
    return writer.out, ends


histories = st.lists(
    st.lists(st.integers(0, N - 1), min_size=1, max_size=7), min_size=1, max_size=5
)


@SETTINGS
@given(
    rows=histories,
    name=st.sampled_from(list(TEMPLATES)),
    k=st.sampled_from([1, 3]),
    side=st.sampled_from(["right", "left"]),
    answered=st.booleans(),
    data=st.data(),
)
def test_every_position_equals_a_slow_loop(rows, name, k, side, answered, data):
    prompts = PROMPTS[name, k]
    targets = (
        np.array(
            data.draw(
                st.lists(st.integers(0, N - 1), min_size=len(rows), max_size=len(rows))
            )
        )
        if answered
        else None
    )
    batch = prompts.batch(Ragged.from_lists(rows), targets, side)
    for r, history in enumerate(rows):
        expected, ends = slow(prompts, history, targets[r] if answered else None)
        real = batch.attention_mask[r].bool()
        shift = 0 if side == "right" else int((~real).sum())
        assert real.tolist() == [False] * shift + [True] * len(expected) + [False] * (
            len(real) - shift - len(expected)
        )
        ids, slots, users, labels = (
            x[r][real].tolist()
            for x in (
                batch.input_ids,
                batch.token_slots,
                batch.user_slots,
                batch.labels,
            )
        )
        for (kind, value), i, s, u, label in zip(
            expected, ids, slots, users, labels, strict=True
        ):
            assert i == {"item": ITEM, "user": USER}.get(kind, value)
            assert s == (value if kind == "item" else -1)
            assert u == (r * prompts.user_tokens + value if kind == "user" else -1)
            assert label == (value if kind == "answer" else -100)
        n = len(history)
        assert batch.condition_positions[r].tolist() == [e + shift for e in ends] + [
            -1
        ] * (batch.condition_positions.shape[1] - n)
        assert batch.next_items[r, :n].tolist() == history[1:] + [
            int(targets[r]) if answered else -1
        ]
        assert batch.position_ids[r][real].tolist() == list(range(len(expected)))
        padding = (batch.input_ids[r][~real] == prompts.pad).all() and (
            batch.labels[r][~real] == -100
        ).all()
        assert (
            padding
            and (batch.token_slots[r][~real] == -1).all()
            and (batch.user_slots[r][~real] == -1).all()
        )


def test_long_histories_keep_their_last_items():
    prompts = prompts_for("tokens", max_items=3)
    batch = prompts.batch(Ragged.from_lists([[1, 2, 3, 4, 5]]), np.array([6]))
    assert batch.next_items.tolist() == [[4, 5, 6]]
    assert batch.token_slots[0][batch.token_slots[0] >= 0].tolist() == [
        6,
        7,
        8,
        9,
        10,
        11,
    ]


def test_trap_09_no_leak_the_answer_stands_after_every_condition():
    for prompts in PROMPTS.values():
        rows = Ragged.from_lists([[1, 2, 3], [4]])
        one, other, none = (
            prompts.batch(rows, np.array([5, 6])),
            prompts.batch(rows, np.array([7, 8])),
            prompts.batch(rows),
        )
        assert torch.equal(
            one.condition_positions, other.condition_positions
        ) and torch.equal(one.condition_positions, none.condition_positions)
        for r in range(2):
            last = int(one.condition_positions[r].max())
            assert int((one.labels[r] != -100).nonzero().min()) > last
            for field in ("input_ids", "token_slots", "user_slots"):
                a, b, c = (getattr(x, field)[r, : last + 1] for x in (one, other, none))
                assert torch.equal(a, b) and torch.equal(a, c)


@SETTINGS
@given(rows=histories, k=st.sampled_from([1, 3]), data=st.data())
def test_generated_words_follow_the_prompt_and_move_only_the_last_condition(
    rows, k, data
):
    prompts = PROMPTS["reasoned", k]
    words = data.draw(
        st.lists(
            st.lists(st.integers(3, 9), max_size=6),
            min_size=len(rows),
            max_size=len(rows),
        )
    )
    before = prompts.batch(Ragged.from_lists(rows))
    after = before.then(Ragged.from_lists(words))
    assert after.attention_mask.sum(1).max() == after.input_ids.shape[1] or not any(
        words
    )
    for r, (history, said) in enumerate(zip(rows, words)):
        n = int(before.attention_mask[r].sum())
        assert after.attention_mask[r].tolist() == [1] * (n + len(said)) + [0] * (
            after.input_ids.shape[1] - n - len(said)
        )
        for field in ("input_ids", "token_slots", "user_slots"):
            assert torch.equal(
                getattr(after, field)[r, :n], getattr(before, field)[r, :n]
            )
        assert (
            after.input_ids[r, n : n + len(said)].tolist() == said
            and (after.token_slots[r, n:] == -1).all()
        )
        last = len(history) - 1
        assert after.condition_positions[r, last] == n + len(said) - 1
        assert (
            torch.equal(
                after.condition_positions[r, :last],
                before.condition_positions[r, :last],
            )
            and (after.labels == -100).all()
        )
    assert torch.equal(after.next_items, before.next_items)
    for wrong in (
        prompts.batch(Ragged.from_lists(rows), side="left"),
        prompts.batch(Ragged.from_lists(rows), np.ones(len(rows), int)),
    ):
        with pytest.raises(ConfigError, match="padded on the right"):
            wrong.then(Ragged.from_lists(words))


@pytest.mark.parametrize("item", ["{tokens}", "{title}"])
def test_generated_tokens_fill_the_slot_next(item):
    "Also where the items themselves are shown as titles only."
    prompts = prompts_for(
        Template("A", item, ",", "Next:{next}.", "{categories}"), tokens=3
    )
    rows = Ragged.from_lists([[1, 2], [3]])
    for side in ("right", "left"):
        batch = prompts.batch(rows, side=side, shown=np.array([N + 1, 4]))
        for r, shown in enumerate((N + 1, 4)):
            slots = batch.token_slots[r][batch.token_slots[r] >= 0].tolist()
            assert slots[-3:] == [shown * 3, shown * 3 + 1, shown * 3 + 2] and len(
                slots
            ) == 3 + 3 * len(rows[r]) * (item == "{tokens}")
    assert int(prompts.batch(rows).attention_mask[1].sum()) < int(
        prompts.batch(rows, shown=np.array([0, 0])).attention_mask[1].sum()
    )


def test_answers_up_to_the_title_are_shared_by_items_of_the_same_categories():
    prompts = prompts_for("explained")
    whole, kinds = prompts.answers(), prompts.answers(titles=False)
    assert (
        len(whole[0]) == N - 1
        and len(kinds[0]) == len({c for c in ITEMS["categories"] if c})
        and whole[1][0] == kinds[1][0] == -1
    )
    for i in range(1, N):
        short, long = kinds[0][kinds[1][i]].tolist(), whole[0][whole[1][i]].tolist()
        assert (
            long[: len(short)] == short
            and prompts.text.decode(short).endswith(";")
            and long[-1] == prompts.text.eos_token_id
        )
    assert prompts.longest_answer == whole[0].lengths.max()
    assert parse_answer(
        [prompts.template.categories_of("Comedy , Action ; Film-Noir 2 ( 1980 )")],
        KINDS,
    ).categories == [("Comedy", "Action")]
    both = prompts_for("both")
    assert [x.tolist() for x in both.answers(titles=False)[0]] == [
        x.tolist() for x in both.answers()[0]
    ]


def test_trap_12_every_condition_has_a_target_of_its_own():
    batch = prompts_for("tokens").batch(
        Ragged.from_lists([[1, 2, 3, 4]]), np.array([5])
    )
    assert (
        batch.next_items.tolist() == [[2, 3, 4, 5]]
        and len(set(batch.condition_positions[0].tolist())) == 4
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_trap_13_the_answer_ends_and_its_end_is_a_label(name):
    prompts = prompts_for(name)
    batch = prompts.batch(Ragged.from_lists([[1, 2], [3]]), np.array([4, 5]))
    for r in range(2):
        said = batch.labels[r][batch.labels[r] != -100]
        assert (
            said[-1] == prompts.text.eos_token_id
            and (said == prompts.text.eos_token_id).sum() == 1
        )


def test_trap_13_also_where_the_padding_token_is_the_end():
    "Many pre-trained models pad with their end of sequence; the label must survive."
    text = bpe_tokenizer()
    batch = Prompts(TEMPLATES["both"], text, ITEMS, 2).batch(
        Ragged.from_lists([[1], [1, 2, 3]]), np.array([4, 5])
    )
    assert ((batch.labels == text.eos_token_id).sum(1) == 1).all()
    assert (batch.input_ids[0][batch.attention_mask[0] == 0] == text.eos_token_id).all()


def test_trap_14_the_parser_finds_every_named_category():
    texts = [
        "Comedy",
        "action,comedy",
        " Film - Noir . ",
        "A science fiction film for children's night",
        "CHILDREN’S",
        "Comedies",
        "",
        "?!",
    ]
    found = parse_answer(texts, KINDS)
    assert found.categories == [
        ("Comedy",),
        ("Action", "Comedy"),
        ("Film-Noir",),
        ("Science Fiction", "Children's"),
        ("Children's",),
        (),
        (),
        (),
    ]
    assert found.failures == 3


@SETTINGS
@given(
    names=st.lists(
        st.text(
            st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=12
        ).filter(lambda s: any(c.isalnum() for c in s.casefold())),
        min_size=1,
        max_size=5,
    ),
    text=st.text(max_size=40),
)
def test_parser_never_fails_and_finds_each_name_alone(names, text):
    assert len(parse_answer([text], tuple(names)).categories) == 1
    for name in names:  # the same words under two spellings are one name
        (found,) = parse_answer([f"({name})!"], tuple(names)).categories
        assert found and any(
            "".join(filter(str.isalnum, f.casefold()))
            in "".join(filter(str.isalnum, name.casefold()))
            for f in found
        )


def test_trap_20_the_same_prompt_every_time():
    for prompts in PROMPTS.values():
        rows = Ragged.from_lists([[1, 2], [3]])
        first = prompts.batch(rows, side="left")
        for _ in range(3):
            again = prompts.batch(rows, side="left")
            assert all(
                torch.equal(a, b)
                for a, b in zip(first, again)
                if isinstance(a, torch.Tensor)
            )


def test_trap_21_batch_size_one():
    for prompts in PROMPTS.values():
        batch = prompts.batch(Ragged.from_lists([[1]]), np.array([2]))
        assert (
            batch.input_ids.ndim == 2
            and batch.condition_positions.shape == (1, 1) == batch.next_items.shape
        )


def test_trap_22_padded_to_the_longest_row_and_no_further():
    for prompts in PROMPTS.values():
        for side in ("left", "right"):
            batch = prompts.batch(
                Ragged.from_lists([[1], [1, 2, 3], [2, 2]]), np.array([4, 5, 6]), side
            )
            assert batch.attention_mask.sum(1).max() == batch.input_ids.shape[1] < 100


def test_a_beginning_of_sequence_token_stands_once():
    text = bpe_tokenizer()
    batch = Prompts(TEMPLATES["both"], text, ITEMS, 2).batch(
        Ragged.from_lists([[1, 2]]), np.array([4])
    )
    assert (
        batch.input_ids[0, 0] == text.bos_token_id
        and (batch.input_ids == text.bos_token_id).sum() == 1
    )


def test_a_space_goes_with_the_word_after_it():
    """Byte-pair vocabularies know ' Comedy' as one word.

    Cut as ' ' and 'Comedy' it would be another text to the model.
    """
    text = bpe_tokenizer()
    prompts = Prompts(TEMPLATES["both"], text, ITEMS, 2)
    batch = prompts.batch(Ragged.from_lists([[1]]), np.array([2]))
    said = batch.labels[0][batch.labels[0] != -100].tolist()
    assert said == text(
        " " + ", ".join(ITEMS["categories"][2]), add_special_tokens=False
    )["input_ids"] + [text.eos_token_id]


@pytest.mark.parametrize("text", ["bpe", "words"])
def test_a_title_cannot_bring_in_special_tokens_or_placeholders(text):
    items = ITEMS.assign(title=["</s> <eos> {tokens} <item> <s>"] * N)
    template = TEMPLATES["both"]
    text = bpe_tokenizer() if text == "bpe" else word_tokenizer(template, items)
    batch = Prompts(template, text, items, 2).batch(Ragged.from_lists([[1]]))
    specials = {text.bos_token_id, text.eos_token_id}
    assert not specials & set(batch.input_ids[0, 1:].tolist())
    assert (batch.token_slots >= 0).sum() == 2 == (batch.input_ids < 0).sum()


def test_titles_are_cut_and_only_titles():
    short = Prompts(
        TEMPLATES["titles"],
        word_tokenizer(TEMPLATES["titles"], ITEMS),
        ITEMS,
        1,
        title_length=2,
    )
    places = (
        prompts_for("titles").batch(Ragged.from_lists([[1, 2]])).input_ids.shape[1]
        - short.batch(Ragged.from_lists([[1, 2]])).input_ids.shape[1]
    )
    lengths = [len(short.text(t)["input_ids"]) for t in ITEMS["title"][[1, 2]]]
    assert places == sum(lengths) - 4


def test_an_answer_names_the_first_categories_of_an_item():
    names = tuple(f"kind{n}" for n in range(3 * NAMED_CATEGORIES))
    items = pd.DataFrame({"title": ["one"], "categories": [names]})
    prompts = Prompts(
        TEMPLATES["tokens"], word_tokenizer(TEMPLATES["tokens"], items), items, 1
    )
    batch = prompts.batch(Ragged.from_lists([[0]]), np.array([0]))
    answer = prompts.text.decode(batch.labels[0][batch.labels[0] != -100])
    assert names[NAMED_CATEGORIES - 1] in answer
    assert names[NAMED_CATEGORIES] not in answer


def test_distinct_answers_cover_the_catalogue():
    prompts = prompts_for("both")
    said, which = prompts.answers()
    assert which[0] == -1 and len(said) == len({c for c in ITEMS["categories"] if c})
    for i in range(1, N):
        assert prompts.text.decode(said[which[i]][:-1]) == prompts.text.decode(
            prompts.text(", ".join(ITEMS["categories"][i]))["input_ids"]
        )


def test_numbers_of_items_are_never_words():
    """Renumbering the catalogue changes slots and nothing else (raw numbers leak the
    order of arrival).
    """
    order = np.random.default_rng(0).permutation(N)
    inverse = np.argsort(order)
    template = TEMPLATES["both"]
    a, b = (
        prompts_for("both"),
        Prompts(
            template,
            word_tokenizer(template, ITEMS.iloc[order].reset_index(drop=True)),
            ITEMS.iloc[order].reset_index(drop=True),
            2,
        ),
    )
    x, y = (
        a.batch(Ragged.from_lists([[1, 2, 3]]), np.array([4])),
        b.batch(Ragged.from_lists([inverse[[1, 2, 3]]]), inverse[[4]]),
    )
    assert [w for w, kind in a.show(x) if kind != "item"] == [
        w for w, kind in b.show(y) if kind != "item"
    ]


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"item": "{tokens}{tokens}"}, "stands twice"),
        ({"item": "{name}"}, "would never be replaced"),
        ({"item": "x"}, "names no item"),
        ({"suffix": "{user} {user}"}, "stands twice"),
        ({"prefix": "{user}"}, "would never be replaced"),
        ({"answer": "{"}, "malformed"),
        ({"suffix": "{next}", "condition": "answer"}, "must predict"),
        ({"suffix": "{next}{next}"}, "stands twice"),
        ({"condition": "start"}, "unknown position"),
    ],
)
def test_bad_templates_are_refused(parts, message):
    with pytest.raises(ConfigError, match=message):
        Template(**parts)


def test_bad_input_is_refused_with_its_place():
    prompts = prompts_for("tokens")
    with pytest.raises(DataError, match="row 1 has none"):
        prompts.batch(Ragged.from_lists([[1], []]))
    with pytest.raises(DataError, match="row 0 does not exist"):
        prompts.batch(Ragged.from_lists([]))
    with pytest.raises(DataError, match=f"item number {N} is outside"):
        prompts.batch(Ragged.from_lists([[N]]))
    with pytest.raises(DataError, match="item number -1 is outside"):
        prompts.batch(Ragged.from_lists([[1]]), np.array([-1]))
    with pytest.raises(ConfigError, match="0 tokens"):
        prompts_for("tokens", 0)
    text = bpe_tokenizer()
    text.eos_token = None
    with pytest.raises(ConfigError, match="no end-of-sequence"):
        Prompts(TEMPLATES["tokens"], text, ITEMS, 1)
