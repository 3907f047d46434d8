"""Adds the pages that are generated from the code and its records to the site, so that they cannot go stale."""

from generate import navigation, pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the parts under the heading that mkdocs.yml keeps for them."""
    for entry in config.nav:
        if "Catalogue" in entry:
            entry["Catalogue"] += navigation()
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files
