"""Generated text side by side, and where it parts."""

from layersmith.report import samples


def drawn(original, refitted):
    return samples.draw({"chosen": {"samples": [{"prompt": "p", "original": original, "refitted": refitted}]}})


def test_divergence_point():
    assert samples.divergence_point("abcd", "abxd") == 2
    assert samples.divergence_point("ab", "abc") == 2
    assert samples.divergence_point("", "a") == 0


def test_the_mark_starts_at_the_first_difference():
    page = drawn("return x", "return y")
    assert page.count('<span class="shared">return </span>') == 2
    assert ">x</mark>" in page
    assert ">y</mark>" in page
    assert "the first 7\u00a0characters are the same" in page


def test_one_character_is_the_same():
    assert "the first 1\u00a0character is the same" in drawn("ab", "ac")


def test_identical_texts_have_no_mark():
    assert "<mark" not in drawn("same", "same")
    assert "identical over all 4 characters" in drawn("same", "same")


def test_text_is_escaped():
    page = drawn("<script>alert(1)</script>", "</pre><img src=x onerror=alert(1)>")
    assert "<script" not in page
    assert "<img" not in page


def test_nothing_generated():
    assert samples.draw({}) is None
    assert samples.draw({"chosen": {"samples": []}}) is None
