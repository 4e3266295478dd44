"""Load a folder with bounded memory and print the refusal; arguments HEADROOM KIND FOLDER."""

import resource
import sys
from pathlib import Path

from gru_lm.core.errors import UserError
from gru_lm.core.files import read_arrays
from gru_lm.data.prepared import Prepared
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.models.base import load_model

pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
folder = Path(sys.argv[3])
try:
    match sys.argv[2]:
        case "model":
            load_model(folder, "f" * 64)
        case "split":
            Prepared(folder).tokens("train")
        case "arrays":
            read_arrays(folder / "a.npz", "me")
        case "vocabulary":
            Vocabulary.load(folder / "vocab.json")
except UserError as error:
    print(error)
