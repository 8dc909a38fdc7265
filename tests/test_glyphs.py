"""Glyphs: which letters, how they are drawn, and that it is the same every time."""

import numpy as np
import pytest

from episodes.data.glyphs import FACES, JITTERS, SCRIPTS, _script, draw_glyphs, glyph_letters, glyph_pools

PER_LETTER = len(FACES) * JITTERS


@pytest.fixture(scope="module")
def letters() -> list[str]:
    return glyph_letters()


def test_there_are_letters_enough_and_no_homoglyphs_of_earlier_ones(letters):
    assert len(set(letters)) == len(letters) > 1250
    assert {"A", "a", "Ω", "Ж", "Ա", "ა"} <= set(letters)
    greek_alpha, cyrillic_a, cyrillic_o, armenian_oh, greek_epsilon_with_tonos = (
        "\u0391",
        "\u0410",
        "\u043e",
        "\u0585",
        "\u0388",
    )
    assert not {greek_alpha, cyrillic_a, cyrillic_o, armenian_oh} & set(letters)
    assert greek_epsilon_with_tonos in letters


def test_near_doubles_of_letters_of_an_earlier_meta_split_are_left_out(letters):
    cyrillic_ef, greek_rho, cyrillic_e_with_grave = "\u0424", "\u03c1", "\u0450"
    assert not {cyrillic_ef, greek_rho, cyrillic_e_with_grave} & set(letters) and {"\u03a6", "p", "\u00e8"} <= set(letters)
    script = {split: [letter for letter in letters if _script(letter) in SCRIPTS[split]] for split in SCRIPTS}
    for split, count in (("train", 859), ("validation", 241), ("test", 220)):
        assert abs(len(script[split]) - count) < 9, "as the docstring says, give or take another version of FreeType"


def test_an_example_is_a_face_with_black_ink_on_white():
    pool = draw_glyphs(28, ["A", "Ж"])
    assert pool.x.shape == (2 * PER_LETTER, 1, 28, 28) and pool.counts.tolist() == [PER_LETTER] * 2
    assert pool.names == ("glyphs/LATIN CAPITAL LETTER A", "glyphs/CYRILLIC CAPITAL LETTER ZHE")
    ink = 1 - np.asarray(pool.x, np.float64) / 255
    assert (ink.max(axis=(1, 2, 3)) > 0.7).all() and (ink.mean(axis=(1, 2, 3)) > 0.02).all() and ink.mean() < 0.4
    assert len(np.unique(pool.x.reshape(len(ink), -1), axis=0)) == len(ink)  # no two examples are equal


def test_drawing_is_deterministic_and_each_letter_is_on_its_own():
    pool, again = draw_glyphs(20, ["A", "Ж"]), draw_glyphs(20, ["A", "Ж"])
    assert pool.fingerprint == again.fingerprint
    assert np.array_equal(draw_glyphs(20, ["Ж"]).x, pool.x[PER_LETTER:])


def test_the_largest_letters_stay_inside_the_frame():
    pool = draw_glyphs(28, ["Ж", "Ẫ", "Ǽ", "ᾯ"])
    frame = np.ones((28, 28), bool)
    frame[1:-1, 1:-1] = False
    ink = 1 - np.asarray(pool.x[:, 0], np.float64) / 255
    assert ink[:, frame].sum() < 0.01 * ink.sum()


def test_letters_keep_their_relative_sizes():
    pool = draw_glyphs(28, ["O", "o"])
    ink = (255 - np.asarray(pool.x[:, 0], np.int64)) > 60
    heights = ink.any(axis=2).sum(axis=1).reshape(2, PER_LETTER).mean(axis=1)
    assert 1.15 < heights[0] / heights[1] < 1.6


def test_splits_are_scripts_and_the_pool_is_cached(cache, monkeypatch):
    import episodes.data.glyphs

    monkeypatch.setattr(episodes.data.glyphs, "glyph_letters", lambda: ["A", "b", "ʰ", "Ω", "Ж", "Ա", "ა"])
    pools = glyph_pools(16)
    assert {split: len(pool.names) for split, pool in pools.items()} == {"train": 3, "validation": 1, "test": 3}
    for split, pool in pools.items():
        assert all(name.removeprefix("glyphs/").startswith(SCRIPTS[split]) for name in pool.names)
        assert pool.source == f"glyphs, meta-{split}" and pool.x_shape == (1, 16, 16)
    monkeypatch.setattr(episodes.data.glyphs, "glyph_letters", lambda: pytest.fail("drawn again"))
    assert glyph_pools(16)["test"].fingerprint == pools["test"].fingerprint
