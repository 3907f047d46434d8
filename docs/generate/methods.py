"""One section for each method of `layersmith refit`."""

from __future__ import annotations

from generate.text import blocks, inline, paper_link
from layersmith import describe
from layersmith.refitting import methods


def page() -> str:
    out = [
        "# Methods",
        "A method turns a trained sublayer into candidates. Each is one file of `layersmith.refitting.methods`. Those "
        "tried by default are tried where they can help with the budget; `--methods` names others, and "
        "`layersmith methods` lists them all.",
    ]
    for name in methods.METHODS:
        method = methods.get(name)
        facts = [f"Sites: {', '.join(method.kinds)}", f"tried {describe.offered(method)}"]
        if method.builds:
            facts.append("puts in " + ", ".join(f"[{part}](catalogue/{part}.md)" for part in method.builds))
        if method.papers:
            facts.append("papers " + " ".join(paper_link(key) for key in method.papers))
        facts.append("needs " + inline(describe.needs(method)))
        idea, _, rest = describe.method_text(name).partition("\n\n")
        out += [f"## {name}", f"**{inline(idea)}**", " · ".join(facts)]
        out += [f"**When it pays:** {inline(method.when_it_pays)}", blocks(rest)]
        missing = describe.method_missing(method)
        out += [f"**Partly:** without {inline(missing)}."] * bool(missing)
        out += [f"**Differs from its paper:** {inline(method.differs)}"] * bool(method.differs)
    return "\n\n".join(out) + "\n"
