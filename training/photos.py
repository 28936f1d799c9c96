"""Photos for training: found in folders, decoded once, cropped and augmented on the host."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

# Sub-folders of the data folder that may be trained on: no non-commercial clause in their
# repository's licence. Everything else there serves evaluation only.
TRAINING_FOLDERS = (
    "stylegan_faces",
    "deep_image_analogy",
    "cut",
    "deep_transfer_inputs",
    "strotss",
    "mganprior",
    "idinvert_faces",
)
SUFFIXES = (".jpg", ".jpeg", ".png")
LANCZOS = Image.Resampling.LANCZOS
HELD_OUT = 500  # the last faces in name order are never trained on


def load_photos(data: Path, *, longest: int = 448) -> list[list[Image.Image]]:
    """Every photo of the training folders, by folder, RGB, its longer side at most `longest`."""
    photos = []
    for folder in TRAINING_FOLDERS:
        found = []
        for path in _pictures_in(data / folder):
            photo = Image.open(path).convert("RGB")
            photo.thumbnail((longest, longest), LANCZOS)
            found.append(photo)
        if found:
            photos.append(found)
    if not photos:
        raise FileNotFoundError(f"{data}: none of {', '.join(TRAINING_FOLDERS)} holds a photo")
    return photos


def training_pictures(data: Path, faces: int) -> list[list[Image.Image]]:
    """`load_photos`, and as a set of their own every `faces`-th aligned face; 0 for none."""
    pictures = load_photos(data)
    if faces:
        found = load_faces(data, 128, slice(None, -HELD_OUT, faces))
        pictures.append([Image.fromarray(face) for face in found])
    return pictures


def _pictures_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]


def load_faces(data: Path, size: int, chosen: slice = slice(None)) -> np.ndarray:
    """Those of the aligned faces of lfw128.zip, in name order. [n, size, size, 3] uint8."""
    faces = []
    with zipfile.ZipFile(data / "lfw128" / "lfw128.zip") as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(SUFFIXES)]
        for name in sorted(names)[chosen]:
            face = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            if face.size != (size, size):
                face = face.resize((size, size), LANCZOS)
            faces.append(np.asarray(face))
    return np.stack(faces)


def load_aligned(data: Path, size: int, *, every: int) -> list[np.ndarray]:
    """Faces by the template that they were aligned to: people, synthetic people, cats.

    Every N-th of the people and the cats, which are thousands, but for the held-out people; all of
    the synthetic ones. Returns arrays [n, size, size, 3] uint8, without those that `data` lacks.
    """
    sets = [load_faces(data, size, slice(None, -HELD_OUT, every))]
    for folder, step in (("stylegan_faces", 1), ("domain_cats64", every)):
        paths = _pictures_in(data / folder)[::step]
        faces = [Image.open(path).convert("RGB").resize((size, size), LANCZOS) for path in paths]
        if faces:
            sets.append(np.stack([np.asarray(face) for face in faces]))
    return sets


def face_batch(seed: int, step: int, sets: list[np.ndarray], *, batch: int) -> np.ndarray:
    """`batch` different faces of one of the sets, half of them mirrored. [batch, s, s, 3] in [0, 1]."""
    rng = np.random.default_rng((seed, step, 1))
    chosen = sets[rng.integers(len(sets))]
    faces = chosen[rng.choice(len(chosen), size=batch, replace=False)].astype(np.float32) / 255
    mirrored = rng.random(batch) < 0.5
    return np.where(mirrored[:, None, None, None], faces[:, :, ::-1], faces)


def random_crop(rng: np.random.Generator, photo: Image.Image, size: int) -> np.ndarray:
    """One augmented crop: place, scale, aspect, rotation, mirror, colour, blur, noise.

    Returns [size, size, 3] float32 in [0, 1].
    """
    shorter = min(photo.size)
    side = shorter * np.sqrt(rng.uniform(0.08, 1.0))
    aspect = np.exp(rng.uniform(-0.25, 0.25))
    box_w, box_h = min(side * aspect, photo.width), min(side / aspect, photo.height)
    left = rng.uniform(0, photo.width - box_w)
    top = rng.uniform(0, photo.height - box_h)
    if rng.random() < 0.3:
        photo = photo.rotate(rng.uniform(-30, 30), Image.Resampling.BILINEAR)
    box = (left, top, left + box_w, top + box_h)
    crop = photo.resize((size, size), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.7:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            crop = enhance(crop).enhance(rng.uniform(0.5, 1.5))
    if rng.random() < 0.15:
        crop = crop.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    image = np.asarray(crop, np.float32) / 255
    if rng.random() < 0.2:
        image = image[..., rng.permutation(3)]
    if rng.random() < 0.2:
        image = image + rng.normal(0, rng.uniform(0, 0.08), image.shape)
    return np.clip(image, 0, 1).astype(np.float32)


def mix(rng: np.random.Generator, image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`image` with a box of `other` in it, or both seen through each other.

    For a network that is taught on few photos: what it shall say of what none of them shows.
    """
    size = image.shape[0]
    if rng.random() < 0.5:
        share = rng.uniform(0.3, 0.7)
        return (share * image + (1 - share) * other).astype(np.float32)
    sides = rng.integers(size // 4, 3 * size // 4, size=2)
    top, left = (rng.integers(size - side + 1) for side in sides)
    box = np.s_[top : top + sides[0], left : left + sides[1]]
    mixed = image.copy()
    mixed[box] = other[box]
    return mixed


def crop_batch(
    seed: int,
    step: int,
    photos: list[list[Image.Image]],
    *,
    batch: int,
    size: int,
    mixed: float = 0.0,
) -> np.ndarray:
    """The batch of step `step`: the same seed and step give the same batch. [batch, s, s, 3].

    Each photo is cropped twice, so that a batch holds places that belong together. A set is drawn
    by the square root of its photos, so that a set of hundreds of faces leaves room for the rest.

    Args:
      photos: sets of photos.
      mixed: share of pictures into which another photo is mixed.
    """
    rng = np.random.default_rng((seed, step))
    odds = np.sqrt([len(found) for found in photos])

    def drawn() -> Image.Image:
        found = photos[rng.choice(len(photos), p=odds / odds.sum())]
        return found[rng.integers(len(found))]

    chosen = [drawn() for _ in range(-(-batch // 2))]
    images = []
    for number in range(batch):
        image = random_crop(rng, chosen[number // 2], size)
        if rng.random() < mixed:
            image = mix(rng, image, random_crop(rng, drawn(), size))
        images.append(image)
    return np.stack(images)
