"""Published weight files: where they are, how large, which hash, under which licence.

Only what somebody has published stands here; None is "not published". Addresses, names, licences
and 8-digit hashes (they are in torchvision's and pytorch-fid's file names) come from the
publishers' repositories. Full hashes and sizes in bytes are those that independent users of these
files have published, agree on, and that begin with the publisher's 8 digits; those of LPIPS were
computed from the files in its repository.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Entry:
    """One published file and what it is converted to."""

    name: str  # of the converted file in the cache, without .safetensors
    network: str  # the converter's name
    filename: str  # as published
    urls: tuple[str, ...]  # mirrors of the same bytes, tried in order; () is "by hand only"
    sha256: str | None  # 64 hex digits, or the first 8 where only those are published
    size: int | None  # bytes
    licence: str
    non_commercial: bool
    note: str  # what it is for
    page: str  # where a person finds it

    @property
    def hosts(self) -> str:
        """The servers a download asks, or "by hand"."""
        names = (url.split("/")[2] for url in self.urls)
        return ", ".join(dict.fromkeys(names)) or "by hand"


TORCHVISION = "BSD-3-Clause (torchvision); terms of ImageNet may apply to the weights"
INCEPTION = "Apache-2.0 (pytorch-fid; weights of TensorFlow's Inception of 2015)"
LPIPS = "BSD-2-Clause"
DINO = "Apache-2.0 (DINO); terms of ImageNet may apply to the weights"
CC_BY_NC = "CC BY-NC 4.0 (NVIDIA)"
STYLEGAN2 = "Nvidia Source Code License-NC (non-commercial)"
ADA = "NVIDIA Source Code License for StyleGAN2-ADA (research and evaluation only)"
ON_FFHQ = "not stated (code: MIT); trained on FFHQ, which is CC BY-NC-SA 4.0"

ZOO = "GenForce's model zoo, whose storage was reported closed in 2026"


def _torchvision(
    name: str,
    filename: str,
    sha256: str,
    size: int | None,
    note: str,
    *,
    network: str = "",
    mirrors: tuple[str, ...] = (),
) -> Entry:
    return Entry(
        name=name,
        network=network or name,
        filename=filename,
        urls=(f"https://download.pytorch.org/models/{filename}", *mirrors),
        sha256=sha256,
        size=size,
        licence=TORCHVISION,
        non_commercial=False,
        note=note,
        page="https://docs.pytorch.org/vision/stable/models.html",
    )


def _lpips(trunk: str, sha256: str, size: int, trunk_name: str) -> Entry:
    host = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity"
    path = f"lpips/weights/v0.1/{trunk}.pth"
    return Entry(
        name=f"lpips_{trunk}",
        network=f"lpips_{trunk}",
        filename=f"{trunk}.pth",
        urls=(f"{host}/082bb24f84c091ea94de2867d34c4544f68e0963/{path}", f"{host}/master/{path}"),
        sha256=sha256,
        size=size,
        licence=LPIPS,
        non_commercial=False,
        note=f"LPIPS v0.1, the linear heads; goes with {trunk_name}",
        page="https://github.com/richzhang/PerceptualSimilarity",
    )


def _dino(name: str, folder: str, network: str) -> Entry:
    return Entry(
        name=name,
        network=name,
        filename=f"{folder}.pth",
        urls=(f"https://dl.fbaipublicfiles.com/dino/{folder}/{folder}.pth",),
        sha256=None,
        size=None,
        licence=DINO,
        non_commercial=False,
        note=f"judge of the quality benchmark (`--dino`), {network}",
        page="https://github.com/facebookresearch/dino",
    )


def _zoo(name: str, share: str, licence: str, note: str) -> Entry:
    host = "https://mycuhk-my.sharepoint.com/:u:/g/personal/1155082926_link_cuhk_edu_hk"
    return Entry(
        name=name,
        network=name.split("_")[0],
        filename=f"{name}.pth",
        urls=(f"{host}/{share}&download=1",),
        sha256=None,
        size=None,
        licence=licence,
        non_commercial=True,
        note=f"{note}; {ZOO}",
        page="https://github.com/genforce/genforce/blob/master/MODEL_ZOO.md",
    )


def _nvidia(
    name: str, path: str, note: str, *, sha256: str | None = None, size: int | None = None
) -> Entry:
    return Entry(
        name=name,
        network="stylegan2",
        filename=path.rsplit("/", 1)[-1],
        urls=(f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/{path}",),
        sha256=sha256,
        size=size,
        licence=ADA,
        non_commercial=True,
        note=note,
        page="https://github.com/NVlabs/stylegan2-ada-pytorch",
    )


def _drive(name: str, filename: str, page: str, licence: str, note: str) -> Entry:
    """Google Drive asks a person to confirm before it sends a large file."""
    return Entry(
        name=name,
        network="stylegan2",
        filename=filename,
        urls=(),
        sha256=None,
        size=None,
        licence=licence,
        non_commercial=True,
        note=note,
        page=page,
    )


_FEATURES = (
    _torchvision(
        "vgg16",
        "vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        553_433_881,
        "features; perceptual loss of mGANprior; trunk of lpips_vgg",
    ),
    _torchvision(
        "vgg19",
        "vgg19-dcbb9e9d.pth",
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        574_673_361,
        "features of the paper preset",
    ),
    _torchvision(
        "resnet50",
        "resnet50-0676ba61.pth",
        "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        102_530_333,
        "features; torchvision's current IMAGENET1K_V1",
    ),
    _torchvision(
        "resnet50_2017",
        "resnet50-19c8e357.pth",
        "19c8e3572231adff6824a2da93fd67b5986919a2e65f8b6007eab4edee220097",
        102_502_400,
        "features; the file that torchvision had in 2020",
        network="resnet50",
        mirrors=("https://zenodo.org/record/4588417/files/resnet50-19c8e357.pth",),
    ),
    _torchvision(
        "alexnet",
        "alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        244_408_911,
        "features; trunk of lpips_alex",
    ),
    _torchvision(
        "squeezenet1_0",
        "squeezenet1_0-b66bff10.pth",
        "b66bff10",
        None,
        "features",
    ),
    _torchvision(
        "squeezenet1_1",
        "squeezenet1_1-b8a52dc0.pth",
        "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
        4_958_839,
        "features; trunk of lpips_squeeze",
    ),
)

_METRICS = (
    Entry(
        name="inception_fid",
        network="inception_fid",
        filename="pt_inception-2015-12-05-6726825d.pth",
        urls=(
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth",
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
        ),
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        size=95_628_359,
        licence=INCEPTION,
        non_commercial=False,
        note="FID; selection of the paper preset",
        page="https://github.com/mseitzer/pytorch-fid",
    ),
    _torchvision(
        "inception_torchvision",
        "inception_v3_google-0cc3c7bd.pth",
        "0cc3c7bd75056d25e46cba549dc184522069b81e9787eff6df84f397bd52a5ef",
        108_949_747,
        "SIFID; other weights than inception_fid",
    ),
    _lpips(
        "vgg", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868", 7289, "vgg16"
    ),
    _lpips(
        "alex", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0", 6009, "alexnet"
    ),
    _lpips(
        "squeeze",
        "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
        10811,
        "squeezenet1_1",
    ),
    _dino("dino_vits8", "dino_deitsmall8_pretrain", "ViT-S/8"),
    _dino("dino_vits16", "dino_deitsmall16_pretrain", "ViT-S/16"),
    _dino("dino_vitb8", "dino_vitbase8_pretrain", "ViT-B/8"),
    _dino("dino_vitb16", "dino_vitbase16_pretrain", "ViT-B/16"),
)

_GENERATORS = (
    Entry(
        name="pggan_celebahq1024",
        network="pggan",
        filename="pggan_celebahq.pth",
        urls=("https://www.dropbox.com/s/t74z87pk3cf8ny7/pggan_celebahq.pth?dl=1",),
        sha256=None,
        size=None,
        licence=CC_BY_NC,
        non_commercial=True,
        note="generator of the paper preset, faces; NVIDIA's weights as converted for InterFaceGAN",
        page="https://github.com/genforce/interfacegan/blob/master/docs/InterFaceGAN.ipynb",
    ),
    _zoo(
        "stylegan_ffhq1024",
        "EdfMxgb0hU9BoXwiR3dqYDEBowCSEF1IcsW3n4kwfoZ9OQ?e=VwIV58",
        CC_BY_NC,
        "generator, faces",
    ),
    _zoo(
        "stylegan_celebahq1024",
        "EcCdXHddE7FOvyfmqeOyc9ABqVuWh8PQYFnV6JM1CXvFig?e=1nUYZ5",
        CC_BY_NC,
        "generator, faces",
    ),
    _zoo(
        "stylegan_ffhq512",
        "EZYrrwOiEgVOg-PfGv7QTegBzFQ9yq2v7o1WxNq5JJ9KNA?e=SZU8PI",
        ON_FFHQ,
        "generator, faces",
    ),
    _zoo(
        "stylegan_ffhq256",
        "ES-NAUCC2qdHg87BftvlBiQBVpbJ8-005Q4TNr5KrOxQEw?e=00AnWt",
        ON_FFHQ,
        "generator, faces",
    ),
    _zoo(
        "stylegan2_ffhq1024",
        "EX0DNWiBvl5FuOQTF4oMPBYBNSalcxTK0AbLwBn9Y3vfgg?e=Q0sZit",
        STYLEGAN2,
        "generator, faces",
    ),
    _drive(
        "stylegan2_ffhq1024_rosinality",
        "stylegan2-ffhq-config-f.pt",
        "https://drive.google.com/file/d/1EM87UquaoQmk17Q8d5kYIAHqu0dkYqdT/view",
        STYLEGAN2,
        "generator, faces; NVIDIA's weights in rosinality's form, as pixel2style2pixel gives them",
    ),
    _drive(
        "stylegan2_ffhq256_rosinality",
        "550000.pt",
        "https://drive.google.com/open?id=1PQutd-JboOCOZqmd95XWxWrO8gGEvRcO",
        ON_FFHQ,
        "generator, faces; rosinality's own training, 550,000 iterations",
    ),
    _nvidia(
        "stylegan2_ffhq1024_nvidia",
        "ffhq.pkl",
        "generator, faces",
        sha256="a205a346e86a9ddaae702e118097d014b7b8bd719491396a162cca438f2f524c",
        size=381_624_121,
    ),
    _nvidia(
        "stylegan2_ffhq512_nvidia",
        "transfer-learning-source-nets/ffhq-res512-mirror-stylegan2-noaug.pkl",
        "generator, faces",
    ),
    _nvidia(
        "stylegan2_ffhq256_nvidia",
        "transfer-learning-source-nets/ffhq-res256-mirror-paper256-noaug.pkl",
        "generator, faces; half the channels of the others",
    ),
    _nvidia(
        "stylegan2_celebahq256_nvidia",
        "transfer-learning-source-nets/"
        "celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl",
        "generator, faces; half the channels of the others",
    ),
    _nvidia("stylegan2_metfaces1024_nvidia", "metfaces.pkl", "generator, faces in paintings"),
    _nvidia("stylegan2_afhqcat512_nvidia", "afhqcat.pkl", "generator, cats"),
    _nvidia("stylegan2_afhqdog512_nvidia", "afhqdog.pkl", "generator, dogs"),
    _nvidia("stylegan2_afhqwild512_nvidia", "afhqwild.pkl", "generator, wild animals"),
)

REGISTRY: Mapping[str, Entry] = MappingProxyType(
    {entry.name: entry for entry in (*_FEATURES, *_METRICS, *_GENERATORS)}
)
