"""Makes the files of this folder out of the full set of released trajectories.

    python tests/golden/thin.py FOLDER_WITH_THE_FULL_SET [--every 4]

Nothing of a case is lost but rows: the gradients do not depend on the parameters, so a deviation
at any step is still there at the next kept one. Equal trajectories are kept once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
FORMAT = (
    "'which'[case] is that case's row in 'parameters' (distinct cases, kept steps, 23): the three "
    "tensors after each of 'kept_steps', flattened in C order and concatenated. 'inserted'[case] "
    "= np.packbits of a (60, 3) bool: did the program put this step's gradient into that tensor's "
    "buffer (np.unpackbits(x)[:180].reshape(60, 3)). 'p0' = initial parameters (23,). "
    "'grads_<name>' (60, 23) = gradients; 'present_<name>' (60, 3) = False where the gradient is "
    "None. 'saga_<name>' (60,) = index of the sample."
)


def thin(source: Path, every: int) -> None:
    manifest = json.loads((source / "manifest.json").read_text())
    full = np.load(source / "trajectories.npz")
    cases = manifest.pop("cases")
    steps = np.array(
        [t for t in range(1, manifest["steps"] + 1) if t <= 2 or t % every == 0], dtype=np.int64
    )
    stacked = np.stack([full[case["id"]] for case in cases])
    distinct, which = np.unique(stacked.reshape(len(cases), -1), axis=0, return_inverse=True)
    distinct = distinct.reshape(-1, *stacked.shape[1:])[:, steps - 1]
    shared = {
        name: full[name]
        for name in full.files
        if name == "p0" or name.startswith(("grads_", "present_", "saga_"))
    }
    np.savez_compressed(
        HERE / "trajectories.npz",
        parameters=distinct,
        which=which.astype(np.int16).reshape(-1),
        kept_steps=steps,
        inserted=np.stack([full[f"ins_{case['id']}"] for case in cases]),
        **shared,
    )
    manifest["what"] = manifest["what"].split(":")[0] + ". " + FORMAT
    manifest["kept_steps"] = steps.tolist()
    head = json.dumps(manifest, indent=1)[:-2]
    rows = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (HERE / "manifest.json").write_text(f'{head},\n "cases": [\n{rows}\n ]\n}}\n')


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--every", type=int, default=4)
    arguments = parser.parse_args()
    thin(arguments.source, arguments.every)
