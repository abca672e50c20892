"""What the models of transformers before 5 do otherwise: which tests wait for it, and for what."""

from importlib.metadata import version

import pytest

IS_OLD = int(version("transformers").partition(".")[0]) < 5
WAITS_FOR = {
    "a model of that kind": [
        "test_a_number_of_leading_layers_follows_the_layers_kept",
        "test_an_order_that_the_config_cannot_describe_is_noted",
        "test_a_number_that_equals_the_depth_by_chance_is_left_alone",
        "test_a_dropped_layer_is_gone_from_every_config_and_saving_keeps_the_model[gemma3]",
        "test_one_random_sequence_of_legal_edits_for_ten_architectures[vit]",
        "test_the_depth_of_one_stage_follows[Swin]",
    ],
    "a cache that is an object, and its errors": [
        "test_the_same_edit_by_hand_leaves_a_cache_that_disagrees",
        "test_dropped_layers_of_a_decoder_without_mended_numbers_are_refused",
        "test_a_dropped_layer_is_gone_from_every_config_and_saving_keeps_the_model[t5]",
    ],
    "attention that knows the number of its layer": [
        "test_bert_numbers_are_mended_after_a_middle_layer_went",
        "test_gpt2_arithmetic_on_the_layer_number_is_reported",
    ],
    "a model that runs on the meta device": ["test_fake_runs_of_a_decoder_with_its_cache_work_on_the_meta_device"],
    "a config that a run does not write into": ["test_the_injected_failures_happen_late"],
    "sentence-transformers that goes with it": [
        "test_layers_dropped_inside_stay_dropped_after_saving",
        "test_a_model_without_pooling_has_no_sentence_embedding_and_the_report_says_so",
    ],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them, each with its reason."""
    reasons = {name: reason for reason, names in WAITS_FOR.items() for name in names}
    for item in items:
        if IS_OLD and item.name in reasons:
            item.add_marker(pytest.mark.skip(reason=f"waits for transformers 5: {reasons[item.name]}"))
