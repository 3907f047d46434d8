#!/usr/bin/env bash
# torch 2.13.0 (CPU build) with torchvision 0.28.0 (the package index's own build) and transformers 5.23.0.
#
# Guess:   torchvision serves image processors, so text models load whatever is the matter with it; and pip would refuse
#          two builds that do not go together.
# Seen:    pip installs it without a word, `import torchvision` raises "operator torchvision::nms does not exist", and
#          then `from transformers import LlamaConfig` fails too: "Could not import module 'LlamaConfig'. Are this
#          object's requirements defined correctly?". Without torchvision both work, and images go through Pillow.
# Why:     torchvision's wheels say which version of torch they belong to, and not which build of it; transformers asks
#          whether the package is there, then imports it wherever it is.
# For us:  the extra `vision` is Pillow and scikit-learn. Who wants torchvision takes it from where torch came from.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$work/env/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 pillow==13.0.0
"$work/env/bin/python" -c "from transformers import LlamaConfig"
if ! "$work/env/bin/python" -c "import torch, sys; sys.exit('+cpu' not in torch.__version__)"; then
    echo "this index gave another build of torch than the CPU's: nothing to see"
    exit 0
fi
"$work/env/bin/pip" install --quiet --disable-pip-version-check torchvision==0.28.0
if "$work/env/bin/python" -c "from transformers import LlamaConfig" 2> "$work/said"; then
    echo "the behaviour has changed"
    exit 1
fi
grep -q "LlamaConfig" "$work/said"
echo "as described"
