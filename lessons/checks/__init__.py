"""Checks for the exercises: each takes the reader's own function and says what is wrong with it, if anything.

A check prints one of three things: "Not done yet" (the function still returns nothing), "Not yet right" with
the mistake it recognises, or "Correct". It never stops the notebook. Right answers come from `reference`,
`minigtn` or a formula; the usual wrong ones are computed beside them, and a mistake is called by its name.
``use`` hands the reader's function to the later cells once it passes; a ``predict_`` compares a guess.

The checks of lesson 1 are in `lesson1`, and so on; what they share is in `common`.
"""
# ruff: noqa: F401

from checks.capstone import all_correct
from checks.common import close, compare, use
from checks.lesson1 import (
    check_1_central_difference,
    check_1_hessian_times,
    check_1_step,
    check_1_step_back,
    predict_1_best_h,
    predict_1_best_rate,
    predict_1_far,
)
from checks.lesson2 import (
    check_2_keep_states,
    check_2_largest_curvature,
    check_2_train,
    check_2_walk_back,
    predict_2_apart,
    predict_2_memory,
    predict_2_sign,
)
from checks.lesson3 import (
    check_3_bits_per_weight,
    check_3_checkpointed,
    check_3_film,
    check_3_film_back,
    check_3_squeeze,
    check_3_undo_step,
    predict_3_bits,
    predict_3_lost,
    predict_3_pop,
)
from checks.lesson4 import (
    check_4_learn,
    check_4_log_lr_gradient,
    check_4_meta_loss,
    check_4_train_per_layer,
    predict_4_best,
    predict_4_wish,
)
from checks.lesson5 import (
    check_5_class_means,
    check_5_image_gradient,
    check_5_learn_images,
    check_5_meta_loss,
    predict_5_convolution,
    predict_5_means,
    predict_5_starts,
)
from checks.lesson6 import (
    check_6_choose_then_judge,
    check_6_generate,
    check_6_meta_loss,
    check_6_outer_loop,
    predict_6_fresh_loss,
    predict_6_real_accuracy,
    predict_6_worst_taught,
)
from checks.lesson7 import (
    check_7_paired,
    check_7_reorder,
    check_7_weight_normalized,
    predict_7_last_only,
    predict_7_shuffled,
    predict_7_weight_norm,
)
from checks.lesson8 import (
    check_8_estimate,
    check_8_plan,
    check_8_timed,
    predict_8_unrolled_mebibytes,
    predict_8_wider,
)
from checks.lesson9 import (
    check_9_bootstrap,
    check_9_predict_each,
    check_9_spearman,
    check_9_taught_accuracy,
    predict_9_as_it_is,
    predict_9_best_score,
)
from checks.lesson10 import check_10_choose, check_10_hessian_times, check_10_rate_for
from checks.lesson11 import check_11_repaid_after, check_11_returns_to_go, check_11_surrogate
from checks.lesson12 import (
    check_12_gradient_error,
    check_12_judge,
    check_12_learner,
    check_12_loss,
    check_12_make_data,
    check_12_meta_loss,
    check_12_meta_train,
    check_12_step,
    check_12_teacher,
    check_12_train,
)
