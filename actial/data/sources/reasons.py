"""What the counted reasons of a build mean, and what the user can do."""

from __future__ import annotations

# Counts of frames that are no rejections -> the line that is printed ("" = none)
FRAME_NOTES = {
    "usable": "",
    "with_mask": "{n} of {usable} photos have a mask",
    "without_mask": (
        "{n} of {usable} photos have no mask, though masks/ or source.mask_root is there: masks "
        "are named by their photo, as masks/sub/000.jpg.png, 000.png or 000_mask.png"
    ),
    "mask_unusable": (
        "{n} masks cannot be used: broken, empty, nearly full, or cut by the photo's border"
    ),
    "turned": "{n} photos turned by their EXIF orientation",
    "rescaled": "{n} photos have another size than their camera: intrinsics scaled",
    "rotation_scaled": "{n} poses had a scale in their rotation: divided out",
    "mask_missing": "{n} masks named by mask_path are missing",
}
REMEDIES = {
    "frame_orientation": (
        "frame_orientation: photos carry an EXIF orientation, and neither their size nor the "
        "cameras' roll tells whether the poses belong to the stored or the turned pixels: set "
        "source.exif=stored, both or photos"
    ),
    "frame_mirrored": (
        "frame_mirrored: the EXIF orientation mirrors the photo: set source.exif=stored if the "
        "tag is wrong, or store the photos as they are shown"
    ),
    "frame_size": "frame_size: the photo has another shape than its camera",
    "frame_missing": "frame_missing: the pose file names a photo that is not there",
    "frame_unreadable": "frame_unreadable: the photo is broken or of an unknown format",
    "frame_pose": "frame_pose: the pose is no rotation and translation",
    "frame_name": "frame_name: the photo's name leads out of the capture",
    "frame_lens": "frame_lens: the pose file gives no lens of a photo (focal length, camera_model)",
    "axes_look_opencv": (
        "axes_look_opencv: every camera has the object behind it: are these OpenCV axes? Then set "
        "source.axes=opencv"
    ),
    "axes_look_opengl": (
        "axes_look_opengl: every camera has the object behind it: are these OpenGL axes? Then set "
        "source.axes=opengl"
    ),
    "camera_model": "camera_model: panoramas have no lens: undistort them to PINHOLE views",
    "category_unreadable": "category_unreadable: fetch the category's annotations again",
    "no_images": "no_images: the capture has a model but no folder images/",
    "no_sparse": (
        "no_sparse: no COLMAP model (cameras, images and points3D, .bin or .txt) in sparse/ or "
        "sparse/0"
    ),
}
