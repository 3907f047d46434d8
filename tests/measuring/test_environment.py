import json
import re

import torch

from layersmith.measuring.environment import environment


def test_environment_is_json_and_names_what_matters() -> None:
    found = json.loads(json.dumps(environment()))
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == "cpu"
    assert found["cpu"]
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(\+modified)?", found["commit"])
