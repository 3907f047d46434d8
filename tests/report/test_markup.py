"""Escaping is the default, and only markup passes."""

from xml.etree import ElementTree

from layersmith.report.markup import Markup, escape, join, tag


def test_strings_are_escaped_as_children_and_as_attributes():
    written = tag("p", {"title": '"><script>'}, "a < b & c")
    assert written == '<p title="&quot;&gt;&lt;script&gt;">a &lt; b &amp; c</p>'


def test_markup_passes_and_none_is_left_out():
    assert tag("p", {"class": None, "x": 1.5, "y": 2.0}, Markup("<b>x</b>"), None) == '<p x="1.5" y="2"><b>x</b></p>'
    assert join([Markup("<i>"), "<", None], between=" & ") == "<i> &amp; &lt;"


def test_concatenated_markup_is_text_again():
    # Markup + str is a plain str: it is escaped when used, never trusted by accident.
    assert tag("p", {}, Markup("<b>") + "<script>") == "<p>&lt;b&gt;&lt;script&gt;</p>"


def test_control_characters_keep_the_page_well_formed():
    ElementTree.fromstring(tag("p", {"title": "\x00\x1b"}, "bell \x07, half a pair \ud800"))
    assert escape("tab\tline\n") == "tab\tline\n"
