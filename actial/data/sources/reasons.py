"""What the counted reasons of a build mean, and what the user can do."""

from __future__ import annotations

# Counts of frames that are no rejections -> the line that is printed ("" = none)
FRAME_NOTES = {
    "usable": "",
    "with_mask": "{n} of {usable} photos have a mask",
    "without_mask": (
        "{n} of {usable} photos have no mask, though masks/ or source.mask_root is there: masks "
        "are named by their photo, as masks/sub/000.jpg.png, 000.png or 000_mask.png for "
        "images/sub/000.jpg"
    ),
    "mask_unusable": (
        "{n} masks cannot be used: broken, empty, nearly full (the object must be white), of "
        "another shape than the photo, or cut by its border"
    ),
    "turned": "{n} photos turned by their EXIF orientation",
    "rescaled": "{n} photos have another size than their camera: intrinsics scaled",
    "axes_unsure": (
        "{n} photos are level with the object, so nothing tells OpenCV's axes (x right, y down) "
        "from PyTorch3D's (x left, y up): see in audit.html whether the answers fit source.axes"
    ),
    "rotation_scaled": "{n} poses had a scale in their rotation: divided out",
    "mask_missing": "{n} masks that the pose file names are missing",
    "models_broken": (
        "{n} COLMAP models cannot be read: the next largest of the capture takes their place"
    ),
    "points_lost": "{n} points of COLMAP models have no finite coordinates: left out",
    "captures_below": (
        "{n} captures lie in the folder of another capture and are left out: move them beside it"
    ),
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
    "frame_size": (
        "frame_size: the photo has another shape than its camera, or another size than most photos "
        "of that camera: a crop or thumbnail has other intrinsics"
    ),
    "frame_missing": "frame_missing: the pose file names a photo that is not there",
    "frame_unreadable": "frame_unreadable: the photo is broken or of an unknown format",
    "frame_pose": "frame_pose: the pose is no rotation and translation",
    "frame_name": "frame_name: the photo's name is missing or leads out of the capture",
    "frame_entry": "frame_entry: the pose file's entry of a photo lacks a field: export it again",
    "frame_repeated": "frame_repeated: several entries with different poses lead to one photo",
    "frame_lens": (
        "frame_lens: the pose file gives no usable lens of a photo (size, focal length, "
        "camera_model)"
    ),
    "axes_look_opencv": (
        "axes_look_opencv: every camera has the object behind it: set source.axes=opencv if its "
        "axes are x right and y down, source.axes=pytorch3d if they are x left and y up"
    ),
    "axes_look_opengl": (
        "axes_look_opengl: every camera has the object behind it: are these OpenGL axes? Then set "
        "source.axes=opengl"
    ),
    "axes_upside_down": (
        "axes_upside_down: every camera seems to look up at the object, upside down: set "
        "source.axes=opencv if its axes are x right and y down, source.axes=pytorch3d if they are "
        "x left and y up; write poses of cameras that do look up in OpenGL axes"
    ),
    "camera_model": "camera_model: panoramas have no lens: undistort them to PINHOLE views",
    "category_unreadable": "category_unreadable: fetch the category's annotations again",
    "sparse_corrupt": (
        "sparse_corrupt: the COLMAP model is cut short or contradicts itself: write it again "
        "(colmap model_converter), or remove the capture"
    ),
    "sparse_too_large": "sparse_too_large: a file of the model is above 1 GiB: reduce its points",
    "no_poses": "no_poses: the capture lacks its pose file: fetch or export it again",
    "poses_corrupt": (
        "poses_corrupt: the pose file lacks a field or holds something else in its place: export "
        "it again"
    ),
    "sidecar": "sidecar: object.json is damaged: write the capture again, or remove the file",
    "no_video": "no_video: the sequence's video is missing: fetch it",
    "few_registered": (
        "few_registered: too few photos can be used: see the reasons of photos, or lower "
        "gates.min_registered"
    ),
    "few_registered_share": (
        "few_registered_share: most photos have no pose: align the capture again, or lower "
        "gates.min_registered_share"
    ),
    "few_points": "few_points: the model is thin: align again, or lower gates.min_points",
    "reprojection_error": (
        "reprojection_error: the poses are inexact: align again, or raise gates.max_reprojection_px"
    ),
    "sideways": "sideways: photos lie on their side: turn photos and poses, or set source.exif",
    "up_short_arc": (
        "up_short_arc: the camera turns too little to tell which way is up: walk further around "
        "the object, or lower gates.min_up_sv2"
    ),
    "up_rolled": "up_rolled: the camera is held askew: raise gates.max_roll at the cost of angles",
    "up_disagreement": (
        "up_disagreement: which way is up is in doubt: raise gates.max_up_axis_angle if the poses "
        "are right"
    ),
    "arc": "arc: the camera walks too little around the object: lower gates.min_arc",
    "continuity_step": (
        "continuity_step: photos are not in the order of a walk: set source.ordered=false"
    ),
    "continuity_jump": (
        "continuity_jump: photos are not in the order of a walk: set source.ordered=false"
    ),
    "centre": (
        "centre: no method places the object: give masks (masks/ or source.mask_root), or loosen "
        "the gate that the example names"
    ),
    "no_pair": "no_pair: loosen the gates that the example names, or take photos further apart",
    "no_images": "no_images: the capture has a model but no folder images/",
    "no_sparse": (
        "no_sparse: no COLMAP model (cameras, images and points3D, .bin or .txt) in sparse/ or "
        "sparse/0"
    ),
}
