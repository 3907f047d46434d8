"""Escaping is the default, and only markup passes."""

from xml.etree import ElementTree

from layersmith.report.markup import Markup, escape, join, tag


def test_strings_are_escaped_as_children_and_as_attributes():
    written = tag("p", {"title": '"><script>'}, "a < b & c")
    assert written == '<p title="&#34;&gt;&lt;script&gt;">a &lt; b &amp; c</p>'


def test_markup_passes_and_none_is_left_out():
    assert tag("p", {"class": None, "x": 1.5, "y": 2.0}, Markup("<b>x</b>"), None) == '<p x="1.5" y="2"><b>x</b></p>'
    assert join([Markup("<i>"), "<", None, " & "]) == "<i>&lt; &amp; "


def test_text_added_to_markup_is_never_trusted_by_accident():
    assert tag("p", {}, Markup("<b>") + "<script>") == "<p><b>&lt;script&gt;</p>"
    assert tag("p", {}, f"{Markup('<b>')}<script>") == "<p>&lt;b&gt;&lt;script&gt;</p>"


def test_control_characters_keep_the_page_well_formed():
    ElementTree.fromstring(tag("p", {"title": "\x00\x1b"}, "bell \x07, half a pair \ud800"))
    assert escape("tab\tline\n") == "tab\tline\n"
