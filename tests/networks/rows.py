"""One row for each registered network: what tests build, and what they expect of it."""

from typing import Any, NamedTuple

ROOMY = (32, 32, 8)  # more than one voxel at the coarsest stage, so that norms pass gradients


class Row(NamedTuple):
    options: dict[str, Any]  # small enough for one core
    parameters: int
    fingerprint: float
    published: int  # parameters of paper()
    roomy: tuple[int, int, int] = ROOMY


SMALL = {"width": 3, "max_width": 8, "strides": ((1, 2, 2), (2, 2, 1))}
HALVED_FIVE_TIMES = (64, 64, 8)

ROWS = {
    "ahcnet": Row(SMALL, 9117, -1.0059190486218728, 24409601),
    "attention_unet": Row(
        {**SMALL, "width": 6, "max_width": 12}, 35924, -1.695210640234536, 34878573
    ),
    "bridged_unet": Row(SMALL, 20715, 1.1185094268377995, 18673153),
    "ce_net": Row({"width": 4}, 340044, 1.6628460693753304, 29003093, HALVED_FIVE_TIMES),
    "csa_unet": Row(SMALL, 16113, -0.65722008401425, 48229569),
    "fc_densenet": Row(
        {"growth": 3, "layers": 2, "stem": 4, "strides": ((1, 2, 2), (2, 2, 1))},
        15242,
        -404.06618162760606,
        9322091,
    ),
    "fcn": Row({"width": 3, "wide": 6}, 139800, 1.0800336158570252, 134489759, HALVED_FIVE_TIMES),
    "improved_attention_unet": Row(
        {"width": 3}, 144723, 41.47459830582609, 5671111, HALVED_FIVE_TIMES
    ),
    "laddernet": Row(SMALL, 16185, -193516.07369369396, 1381652),
    "mdu_net": Row(SMALL, 5165, 1.431230634947156, 17586562),
    "multiresunet": Row({**SMALL, "width": 4}, 10495, -84.76983775167898, 7244774),
    "partially_reversible_unet": Row(
        {"widths": (4, 8, 8), "strides": ((1, 2, 2), (2, 2, 1))},
        4419,
        -204.86336738179406,
        12365283,
    ),
    "r2_attention_unet": Row(SMALL, 10553, -72.41633138405305, 39442925),
    "r2unet": Row(SMALL, 10481, 111.56167266562377, 39091393),
    "ra_unet": Row({"width": 8}, 283779, -290.5884042551319, 4420849, HALVED_FIVE_TIMES),
    "raunet": Row({"width": 4}, 259613, -1.6509841738070725, 22143265, HALVED_FIVE_TIMES),
    "scleraseg_net": Row({"width": 4}, 276616, -42.77120411744465, 23626500, HALVED_FIVE_TIMES),
    "scse_unet": Row(
        {**SMALL, "width": 16, "max_width": 32}, 254568, -3.5913167627159828, 36278219
    ),
    "segnet": Row(
        {"width": 3, "strides": (2, (1, 2, 2), 1, (2, 2, 1), 1)},
        195438,
        17.295307017718308,
        29449355,
    ),
    "sunet": Row(SMALL, 9840, 1580.544473383419, 7032002),
    "unet": Row(SMALL, 8973, -1.488278863229276, 31030658),
    "unet3d_cicek": Row(SMALL, 28370, -40.41639744327468, 19075523),
    "unet3plus": Row(SMALL, 14583, -0.8510438970641672, 26989637),
    "unet_plus_plus": Row(SMALL, 10050, 0.6801329869515689, 9041700),
    "voxresnet": Row({"width": 3, "strides": (2, (1, 2, 2))}, 8079, -10.226157416278657, 1327296),
    "denseunet_2d": Row(
        {"stem": 6, "growth": 4, "layers": (2, 1, 1)}, 7_576, 6.860344804576, 49_527_843
    ),
    "denseunet_3d": Row(
        {"stem": 6, "growth": 4, "layers": (2, 1), "long_skips": True},
        15_987,
        -0.854294060070,
        15_977_467,
    ),
    "hdenseunet": Row(
        {"stem": 6, "growth": (4, 3), "layers": ((2, 1), (1, 2))},
        24_628,
        -2.003999693972,
        65_616_289,
    ),
    "unet3d": Row(
        {
            "width": 4,
            "max_width": 10,
            "strides": ((1, 2, 2), (2, 2, 2), (2, 1, 1)),
            "kernels": ((1, 3, 3), 3, 3, 3),
        },
        28_140,
        -6.845431498082,
        31_194_952,
    ),
    "vnet": Row(
        {"width": 4, "strides": ((2, 2, 1), (2, 2, 2)), "kernels": 3},
        42_851,
        479.903385639323,
        65_175_314,
    ),
    "danet": Row({"width": 2}, 117_775, 10.852082522570601, 47_462_651, (32, 32, 16)),
    "dense_multipath_unet": Row({**SMALL, "width": 2}, 19_379, -1.4429158177823613, 54_313_954),
    "dunet": Row({"width": 2, "strides": ((1, 2, 2),)}, 22_993, -1211.1724900945228, 883_442),
    "graph_unet": Row({**SMALL, "nodes": 5}, 9_054, -1.0516840747470144, 26_958_037),
    "m_net": Row(
        {"width": 3, "strides": ((1, 2, 2), (2, 2, 1), 1)}, 73_164, -87.73887924445913, 754_255
    ),
    "saunet": Row(
        {"stem": 16, "growth": 16, "layers": (1, 1, 1)},
        170_338,
        9.375929165194606,
        23_474_535,
        (32, 32, 16),
    ),
    "hierarchical_probabilistic_unet": Row(
        {**SMALL, "width": 4}, 38_905, -38.61653668181283, 21_877_230
    ),
    "probabilistic_unet": Row({**SMALL, "latent": 2}, 29_622, 6.123782925581391, 4_999_449),
    "lv_unet": Row(
        {**SMALL, "decoded": 4, "first_kernel": (3, 5, 1)}, 16_177, -1.721744621681307, 49_567_683
    ),
    "siamese_unet": Row({**SMALL, "mirror_axis": 1}, 8_991, 3.3904110621316317, 467_458),
    "unet_gan": Row(
        {**SMALL, "decoded": 4, "first_kernel": 3, "blocks": 1, "stage": "adapt"},
        64_729,
        -0.21767826897024764,
        75_428_807,
    ),
    "wnet": Row({**SMALL, "segments": 5}, 9_277, -5.255891489320844, 19_224_071),
    "wnet_density": Row(
        {"width": 3, "norm": "instance"},
        109_857,
        3.549488611414269,
        16_989_890,
        HALVED_FIVE_TIMES,
    ),
    "u_det": Row({**SMALL, "pyramid": 4}, 9_170, -1.2015438398100375, 28_583_361),
    "cia_net": Row(
        {"stem": 4, "growth": 2, "layers": (2, 1, 1), "lateral": 3, "stem_stride": 2},
        7_962,
        -1.818117160896258,
        19_025_542,
    ),
    "ynet_2d": Row(
        {"width": 2, "features": 3, "depths": (1, 1)},
        109_713,
        -99.24005998986509,
        3_687_589,
        HALVED_FIVE_TIMES,
    ),
    "ynet_3d": Row(SMALL, 9_445, 4.0601776515090755, 27_733_378),
}
