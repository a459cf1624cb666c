"""The benchmarks by name."""

from actial.evaluation.benchmarks import (
    blink,
    cv_bench,
    easi_tables,
    mmsi,
    mmsi_video,
    release_tables,
    sat,
    single_image,
    threedsr,
    tsv,
    video,
    view_sets,
    viewpoint,
)
from actial.evaluation.benchmarks.base import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        viewpoint.BENCHMARK,
        sat.BENCHMARK,
        cv_bench.BENCHMARK,
        blink.BENCHMARK,
        blink.BENCHMARK_ALL,
        threedsr.BENCHMARK,
        mmsi.BENCHMARK,
        view_sets.VIEWSPATIAL,
        view_sets.MINDCUBE,
        view_sets.ALL_ANGLES,
        single_image.OMNISPATIAL,
        single_image.SPATIALEVAL,
        single_image.OMNI3D,
        video.VSI,
        video.STI,
        video.SPAR,
        video.VSI_DEBIASED,
        mmsi_video.BENCHMARK,
        easi_tables.EMBSPATIAL,
        easi_tables.SITE,
        easi_tables.ERQA,
        easi_tables.SPBENCH,
        release_tables.OMNISPATIAL,
        release_tables.VIEWSPATIAL,
        tsv.BENCHMARK,
    )
}
