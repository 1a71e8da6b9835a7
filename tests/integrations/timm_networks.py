"""The smallest timm network of each family, and the side of the smallest image that leaves it several positions."""

from typing import Any

_ANY_SIZE = """
    caformer_s18 convformer_s18 convmixer_768_32 convnext_atto convnext_zepto_rms convnextv2_atto cpubone_nano
    crossvit_tiny_240 cs3darknet_s csatv2 cspdarknet53 cspnext_tiny cspresnext50 darknet17 davit_tiny
    densenet121 dla34 dla46x_c dm_nfnet_f0 dpn48b dpn68 ecaresnet26t edgenext_xx_small efficientnet_b0
    efficientnet_b0_gn efficientnet_cc_b0_4e efficientnet_es efficientnet_lite0 efficientnetv2_rw_t
    efficientvim_m1 efficientvit_b0 efficientvit_l1 efficientvit_m0 ese_vovnet19b_slim_dw fasternet_t0
    fastvit_mci0 fastvit_t8 fbnetv3_b focalnet_tiny_srf gc_efficientnetv2_rw_t gcresnext26ts gernet_s
    ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_b hgnet_tiny hgnetv2_b0 hrnet_w18_small iformer_t
    inception_next_atto lambda_resnet26t lcnet_035 lcnetv2_small legacy_seresnet18 legacy_seresnext26_32x4d
    legacy_xception lowformer_b0 mambaout_femto mixnet_s mnasnet_small mobilenet_edgetpu_100 mobilenetv1_100
    mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small_035 mobilenetv4_hybrid_medium mobileone_s1
    mobilevit_xxs mobilevitv2_050 mvitv2_tiny naflexvit_base_patch16_gap nasnetalarge nextvit_small
    nf_ecaresnet26 nf_regnet_b0 nf_resnet26 nfnet_l0 pnasnet5large poolformer_s12 poolformerv2_s12 pvt_v2_b0
    pvt_v2_b2_li qwen3_vit_88m rdnet_tiny regnetx_002 regnety_002 regnetz_b16 repghostnet_050 repvgg_a0
    repvit_m0_9 res2net50_14w_8s res2next50 resnest14d resnet10t resnet18 resnet51q resnetblur18 resnetv2_18
    resnetv2_50x1_bit resnext26ts rexnetr_100 sam2_hiera_tiny samvit_base_patch16_224 selecsls42 semnasnet_075
    sequencer2d_s seresnet18 shvit_s1 skresnet18 starnet_s050 swiftformer_xs tf_efficientnetv2_b0
    tiny_vit_5m_224 tinynet_e tresnet_m twins_pcpvt_small twins_svt_small vit_tiny_patch16_dinov3_qkvb vovnet39a
    xception41p xcit_nano_12_p16_224
"""
"""Networks for images of 64×64 pixels."""
_BUILT_FOR_SIZE = """
    beit_base_patch16_224 cait_xxs24_224 coat_lite_tiny coat_tiny coatnet_pico_rw_224 coatnet_rmlp_nano_rw_224
    convit_tiny deit_tiny_distilled_patch16_224 deit_tiny_patch16_224 eca_botnext26ts_256 efficientformerv2_s0
    eva02_tiny_patch14_224 gcvit_xxtiny gmixer_12_224 gmlp_ti16_224 hiera_tiny_224 levit_256d levit_conv_128s
    maxvit_pico_rw_256 maxvit_rmlp_pico_rw_256 maxxvit_rmlp_nano_rw_256 mixer_s32_224 nest_tiny pit_ti_224
    pit_ti_distilled_224 resmlp_12_224 swin_s3_tiny_224 swin_tiny_patch4_window7_224 swinv2_cr_tiny_ns_224
    swinv2_tiny_window8_256 tnt_s_patch16_224 visformer_tiny vit_relpos_small_patch16_224
    vit_srelpos_small_patch16_224 vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_xsmall_patch16_clip_224
    vitamin_small_224 volo_d1_224
"""
"""Networks that are built for one size, here 64×64 pixels."""
_LARGER = {
    "bat_resnext26ts": 256,
    "eca_halonext26ts": 256,
    "efficientformer_l1": 224,
    "inception_resnet_v2": 96,
    "inception_v4": 96,
}
"""Networks that need larger images, with their side."""

TIMM: tuple[tuple[str, int, dict[str, Any]], ...] = (
    *((name, 64, {}) for name in _ANY_SIZE.split()),
    *((name, 64, {"img_size": 64}) for name in _BUILT_FOR_SIZE.split()),
    *((name, side, {}) for name, side in _LARGER.items()),
)
"""Name of each network, side of its images, and options to build it."""
