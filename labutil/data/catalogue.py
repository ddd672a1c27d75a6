"""The 2-D sets of MedMNIST v2 (Yang et al. 2023, doi:10.1038/s41597-022-01721-8): what there is, and its checksums.

Facts from `info.py` of the package medmnist 3.0.2; the files are those of Zenodo record 10519652. All are CC BY 4.0,
except dermamnist, which is CC BY-NC 4.0.
"""

from __future__ import annotations

URL = "https://zenodo.org/records/10519652/files"
SIZES = (28, 64, 128, 224)  # pixels a side
_ORGANS = (
    "bladder | femur left | femur right | heart | kidney left | kidney right | liver | lung left | lung right | "
    "pancreas | spleen"
)
_CLASSES = {
    "bloodmnist": "basophil | eosinophil | erythroblast | immature granulocyte | lymphocyte | monocyte | neutrophil | "
    "platelet",
    "breastmnist": "malignant | normal or benign",
    "dermamnist": "actinic keratosis | basal cell carcinoma | benign keratosis | dermatofibroma | melanoma | "
    "melanocytic nevus | vascular lesion",
    "octmnist": "choroidal neovascularization | diabetic macular edema | drusen | normal",
    **dict.fromkeys(("organamnist", "organcmnist", "organsmnist"), _ORGANS),
    "pathmnist": "adipose | background | debris | lymphocytes | mucus | smooth muscle | normal colon mucosa | "
    "cancer-associated stroma | colorectal adenocarcinoma",
    "pneumoniamnist": "normal | pneumonia",
    "retinamnist": "grade 0 | grade 1 | grade 2 | grade 3 | grade 4",
    "tissuemnist": "collecting duct, connecting tubule | distal convoluted tubule | glomerular endothelial cells | "
    "interstitial endothelial cells | leukocytes | podocytes | proximal tubule segments | thick ascending limb",
}
# name -> class names, in the order of the labels
CLASSES: dict[str, tuple[str, ...]] = {name: tuple(text.split(" | ")) for name, text in _CLASSES.items()}
_SUMS = """
    bloodmnist      7053d0359d879ad8a5505303e11de1dc 2b94928a2ae4916078ca51e05b6b800b
                    adace1e0ed228fccda1f39692059dd4c b718ff6835fcbdb22ba9eacccd7b2601
    breastmnist     750601b1f35ba3300ea97c75c52ff8f6 742edef2a1fd1524b2efff4bd7ba9364
                    363e4b3f8d712e9b5de15470a2aaadf1 b56378a6eefa9fed602bb16d192d4c8b
    dermamnist      0744692d530f8e62ec473284d019b0c7 b70a2f5635c6199aeaa28c31d7202e1f
                    2defd784463fa5243564e855ed717de1 8974907d8e169bef5f5b96bc506ae45d
    octmnist        c68d92d5b585d8d81f7112f81e2d0842 e229e9440236b774d9f0dfef9d07bdaf
                    0a97e76651ace45c5d943ee3f65b63ae abc493b6d529d5de7569faaef2773ba3
    organamnist     68e3f8846a6bd62f0c9bf841c0d9eacc 2dcccc29b88e6da5a01161ef20cda288
                    eeae80d0a227a8d099027e1b3cfd3b60 50747347e05c87dd3aaf92c49f9f3170
    organcmnist     b9ceb9546e10131b32923c5bbeaea2b1 3ce34a8724ea6f548e6db4744d03b6a9
                    773c1f009daa3fe5d9a2a201b2a7ed94 050f5e875dc056f6768abf94ec9995d1
    organsmnist     9ab87b696fb54e2a387ebe992d6ed5f1 53a6d115339d874c25e309a994ff46d3
                    ded0c5fa01a95dc4978b956f613e9b8e b354719e553fbbb2513d5533f52a4cb1
    pathmnist       a8b06965200029087d5bd730944a56c1 55aa9c1e0525abe5a6b9d8343a507616
                    ac42d08fb904d92c244187169d1fd1d9 2c51a510bcdc9cf8ddb2af93af1eadec
    pneumoniamnist  28209eda62fecd6e6a2d98b1501bb15f 8f4eceb4ccffa70c672198ea285246c6
                    05b46931834c231683c68f40c47b2971 d6a3c71de1b945ea11211b03746c1fe1
    retinamnist     bd4c0672f1bba3e3a89f0e4e876791e4 afda852cc34dcda56f86ad2b2457dbcc
                    e48e916a24454daf90583d4e6efb1a18 eae7e3b6f3fcbda4ae613ebdcbe35348
    tissuemnist     ebe78ee8b05294063de985d821c1c34b 123ece2eba09d0aa5d698fda57103344
                    61b955355d7425a89687b06cca3ce0c2 b077128c4a949f0a4eb01517f9037b9c
"""
_WORDS = _SUMS.split()
# name -> MD5 of the .npz, in the order of SIZES
MD5: dict[str, tuple[str, ...]] = {_WORDS[i]: tuple(_WORDS[i + 1 : i + 5]) for i in range(0, len(_WORDS), 5)}
