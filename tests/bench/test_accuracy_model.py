"""The parts of the accuracy benchmark around its model, on the tiny one: features, training, methods, answers."""

import dataclasses
import itertools

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("sklearn")
pytest.importorskip("bench.accuracy", reason="needs the source tree")

from bench.accuracy import (
    alignment,
    evaluate,
    features,
    in_decoder,
    loops,
    methods,
    model,
    questions,
    scenes,
    scorer,
    settings,
    standard,
    train,
    words,
)
from tokenprune_kernels.integrations.transformers import prune_inputs
from tokenprune_kernels.vision_selector import VisionSelectorScorer

TINY = dataclasses.replace(
    settings.TINY,
    training_scenes=((84, 6), (56, 4)),
    validation_scenes=2,
    held_out_scenes=3,
    alignment_steps=2,
    stages=(settings.Stage(2, 4, (3,)), settings.Stage(1, 4, (1, 2)), settings.Stage(2, 4, (1, 3), smaller=True)),
)
NUMBERS = [0, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("accuracy")
    features.compute(TINY, made)
    return made


@pytest.fixture(scope="module")
def made():
    return model.untrained(TINY).eval()


@pytest.fixture
def cached(made, folder):
    """The model, whose tower is replaced by the features of the held-out scenes."""
    real = made.model.vision_tower
    made.model.vision_tower = model.CachedTower(real, features.opened(TINY, folder)[features.HELD_OUT])
    yield made
    made.model.vision_tower = real


def asked(tokens=36):
    return model.inputs(["is there a red disc", "is there a blue ring"], NUMBERS, tokens)


def every_method():
    return methods.methods(TINY, VisionSelectorScorer(TINY.hidden_size, 8))


def named(name, ratio=0.25):
    return next(each for each in every_method() if each.name == name), ratio


def pixels(numbers=NUMBERS, side=84):
    pictures = [scenes.resized(scenes.render(scenes.scene("held-out", n)), side, side) for n in numbers]
    return model.tower.pixel_values(pictures)


# Features


def test_features_are_the_towers(folder, made):
    kept = features.opened(TINY, folder)[features.HELD_OUT].read(NUMBERS)
    with torch.no_grad():
        states = made.model.vision_tower(pixels(), output_hidden_states=True).hidden_states
    assert torch.allclose(kept, torch.stack(states[-3:-1], 1), atol=1e-5)
    assert made.config.vision_feature_layer == [-3, -2]


def test_downsampled_features_are_those_of_the_smaller_picture(folder, made):
    part = features.parts(TINY)["held-out-0.25"]
    assert (part.height, part.width) == (3, 3)
    kept = features.opened(TINY, folder)["held-out-0.25"].read(NUMBERS)
    with torch.no_grad():
        states = made.model.vision_tower(pixels(side=42), output_hidden_states=True).hidden_states
    assert torch.allclose(kept, torch.stack(states[-3:-1], 1), atol=1e-5)


def test_class_attention_is_that_of_the_attention_map(made):
    real = made.model.vision_tower
    real.set_attn_implementation("eager")
    with torch.no_grad():
        output = real(pixels(), output_hidden_states=True, output_attentions=True)
        found = model.tower.class_attention(real, output.hidden_states[-3])
    real.set_attn_implementation("sdpa")
    assert torch.allclose(found, output.attentions[-2].mean(1)[:, 0, 1:], atol=1e-6)


@pytest.mark.parametrize(("ratio", "shape"), [(0.5, (17, 17)), (0.25, (12, 12)), (0.1, (7, 8)), (0.05, (5, 6))])
def test_a_downsampled_picture_has_nearly_as_many_tokens(ratio, shape):
    assert features.downsampled(24, ratio) == shape


def test_features_go_on_where_they_were_interrupted(tmp_path, monkeypatch):
    small = dataclasses.replace(TINY, training_scenes=((84, 16), (56, 1)), held_out_scenes=1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    features.compute(small, whole)
    given, calls = features.tower.hidden_states, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return given(*arguments)

    monkeypatch.setattr(features.tower, "hidden_states", interrupted)
    with pytest.raises(KeyboardInterrupt):
        features.compute(small, broken)
    assert features.opened(small, broken)["training-84"].done == features.CHUNK
    with pytest.raises(ValueError, match=r"expected 18 scenes in training-84\.npy, got 8"):
        features.opened(small, broken)["training-84"].read([17])
    features.compute(small, broken)
    for name, store in features.opened(small, whole).items():
        every = range(store.part.count)
        assert torch.equal(store.read(every), features.opened(small, broken)[name].read(every))


@pytest.mark.parametrize(
    ("name", "field", "value"), [("training-84", "count", 99), ("training-84", "first", 7), ("held-out", "split", "")]
)
def test_features_of_other_scenes_are_refused(folder, name, field, value):
    store = features.opened(TINY, folder)[name]
    other = features.Features(folder, dataclasses.replace(store.part, **{field: value}), store._shape[-1])
    with pytest.raises(ValueError, match=rf"features: expected {name}\.npy with .*, got .*; remove the folder"):
        _ = other.done


# Training


def test_questions_side_by_side_are_answered_as_when_they_are_asked_alone(folder, made):
    store = features.opened(TINY, folder)["training-84"]
    given = questions.asked(scenes.scene("training", store.part.first))
    states = store.read([0])
    together = train.Packed([given], store.part.tokens)
    with torch.no_grad():
        found = train.logits(made, model.joined(states), together)[0]
        start = 0
        for question in given:
            alone = train.Packed([[question]], store.part.tokens)
            single = train.logits(made, model.joined(states), alone)[0]
            assert torch.allclose(found[start : start + len(single)], single, atol=1e-5)
            assert torch.equal(together.labels[0, start : start + len(single)], alone.labels[0])
            start += len(single)


def test_training_sees_what_generate_sees(cached):
    question = questions.asked(scenes.scene("held-out", NUMBERS[0]))[1]
    inputs = model.inputs([question.text], NUMBERS[:1], 36)
    states = cached.model.vision_tower.features.read(NUMBERS[:1])
    packed = train.Packed([[question]], 36)
    with torch.no_grad():
        expected = cached(**inputs).logits[0, -1]
        found = train.logits(cached, model.joined(states), packed)[0, len(question.text.split())]
    assert torch.allclose(found, expected, atol=1e-5)
    assert packed.labels[0, len(question.text.split())] == words.encode(question.answer)[0]


def test_a_token_that_gets_no_attention_is_not_seen(cached):
    question = questions.asked(scenes.scene("held-out", NUMBERS[0]))[1]
    packed = train.Packed([[question]], 36)
    tokens = model.joined(cached.model.vision_tower.features.read(NUMBERS[:1]))
    others = tokens.clone()
    others[:, 5:20] = tokens[:, 4:5]
    some = torch.ones(1, 36)
    some[:, 5:20] = 0

    def found(given, seen):
        with torch.no_grad():
            return train.logits(cached, given, packed, seen=lambda visual: seen)

    assert torch.allclose(found(others, some), found(tokens, some), atol=1e-4)
    assert torch.allclose(found(tokens, torch.ones(1, 36)), found(tokens, 1 - 1e-7 * some), atol=1e-4)
    assert not torch.allclose(found(others, torch.ones(1, 36)), found(tokens, torch.ones(1, 36)), atol=1e-4)


def scale(folder):
    return standard.Standard.of(features.opened(TINY, folder)["training-84"])


def digest(made):
    return model.digest(model.trained_parameters(made))


@pytest.fixture
def trainings(folder, tmp_path):
    """Two folders with the features, for one training that is interrupted and one that is not."""
    folders = [tmp_path / "whole", tmp_path / "broken"]
    for each in folders:
        each.mkdir()
        for file in folder.glob("t*.*"):
            (each / file.name).symlink_to(file)
    return folders


def test_training_goes_on_where_it_was_interrupted(trainings):
    undisturbed, broken = trainings
    whole = train.run(TINY, undisturbed)
    made = model.untrained(TINY)
    alignment.Alignment(TINY, broken, made, scale(broken)).run()
    first = train.Training(TINY, broken, made, scale(broken))
    for _ in range(2):
        first.advance()
    first.save()
    first.advance()  # lost
    second = train.run(TINY, broken)
    assert second["sha256"] == whole["sha256"]
    assert [entry["loss"] for entry in second["steps"]] == [entry["loss"] for entry in whole["steps"]]
    assert whole["steps"][-1]["step"] == 5
    assert set(whole["steps"][-1]["all tokens"]) == {*settings.TASKS, "at", "row"}
    assert digest(model.load(undisturbed / "checkpoint")) == whole["sha256"]
    with pytest.raises(ValueError, match=r"train: expected alignment\.pt of these settings"):
        train.run(dataclasses.replace(TINY, learning_rate=1.0), broken)


def test_the_scorers_training_goes_on_where_it_was_interrupted(trainings, made):
    undisturbed, broken = trainings
    for each in trainings:
        model.save(made, TINY, each / "checkpoint")
    whole = scorer.run(TINY, undisturbed)
    first = scorer.ScorerTraining(TINY, broken)
    first.advance()
    first.save()
    first.advance()  # lost
    second = scorer.run(TINY, broken)
    found, other = scorer.load(undisturbed).state_dict(), scorer.load(broken).state_dict()
    assert all(torch.equal(found[name], other[name]) for name in found)
    assert [entry["loss"] for entry in second["steps"]] == [entry["loss"] for entry in whole["steps"]]
    assert not torch.equal(found["q_proj.weight"], VisionSelectorScorer(32, scorer.HIDDEN).q_proj.weight)
    assert digest(model.load(undisturbed / "checkpoint")) == digest(made)


def test_a_scorer_of_another_model_is_refused(trainings, made):
    folder = trainings[0]
    model.save(made, TINY, folder / "checkpoint")
    log = scorer.run(TINY, folder)["steps"][-1]
    assert set(log["hard choice"]) == set(log["all tokens"]) >= set(settings.TASKS)
    train.run(TINY, folder)
    with pytest.raises(ValueError, match=r"expected scorer\.pt of these settings and this model"):
        scorer.run(TINY, folder)


@pytest.mark.parametrize("k", [1, 12, 35])
def test_the_soft_choice_adds_up_to_k(k):
    scores = torch.randn(3, 36, dtype=torch.float64, generator=torch.Generator().manual_seed(k), requires_grad=True)
    shares = scorer.soft_top_k(4 * scores, k)
    assert torch.allclose(shares.sum(-1), torch.tensor(float(k), dtype=torch.float64))
    assert torch.equal(shares.argsort(-1), scores.argsort(-1))
    assert torch.autograd.gradcheck(lambda each: scorer.soft_top_k(each, k), (scores,), atol=1e-4)


def test_the_scorer_learns_which_tokens_answers_need(trainings, monkeypatch):
    """A loss that wants the tokens with a large first feature stands for that of the answers."""
    model.save(model.untrained(TINY), TINY, trainings[0] / "checkpoint")
    training = scorer.ScorerTraining(dataclasses.replace(TINY, scorer_steps=60), trainings[0])
    given = []

    def logits(made, states, packed, seen):
        visual = torch.randn(4, 36, 32, generator=torch.Generator().manual_seed(training.step)) + 1
        given.append((visual, visual * seen(visual).unsqueeze(-1)))
        return given[-1]

    monkeypatch.setattr(scorer.train, "logits", logits)
    monkeypatch.setattr(
        scorer.train, "answers_loss", lambda found, packed: ((found[0] - found[1])[..., 0].relu() ** 2).mean()
    )
    monkeypatch.setattr(scorer.train, "right", lambda *arguments: {})
    for _ in range(60):
        training.advance()
    visual, _ = given[-1]
    kept = training.scorer(visual).topk(training.k).indices
    assert visual[..., 0].gather(-1, kept).mean() > visual[..., 0].mean() + 0.8


def test_the_tower_does_not_change(made):
    names = model.trained_parameters(made)
    assert not any("vision_tower" in name for name in names)
    assert not any(each.requires_grad for each in made.model.vision_tower.parameters())


def test_the_finished_projector_takes_tokens_as_they_are(folder):
    store = features.opened(TINY, folder)["training-84"]
    given = scale(folder)
    states = store.read([1, 3])
    tokens = given(store.read(range(store.part.count)))
    assert torch.allclose(tokens.mean((0, 1)), torch.zeros(48), atol=1e-4)
    assert torch.allclose(tokens.std((0, 1)), torch.ones(48), atol=0.02)
    projector = model.untrained(TINY).model.multi_modal_projector
    with torch.no_grad():
        expected = projector(given(states))
        given.fold(projector)
        assert torch.allclose(projector(model.joined(states)), expected, atol=1e-4)


def test_the_learning_rate_rises_and_falls(folder):
    training = train.Training(dataclasses.replace(TINY, warm_up=2), folder, model.untrained(TINY), scale(folder))
    rates = []
    for step in range(training.total):
        training.step = step
        rates.append(training.rate())
    assert rates[0] < rates[1] == max(rates) == TINY.learning_rate
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] > train.LOWEST_RATE * TINY.learning_rate


def test_stages_follow_each_other(folder):
    training = train.Training(TINY, folder, model.untrained(TINY), scale(folder))
    stages = [training.stage(step) for step in range(training.total)]
    assert [stage.pooled for stage in stages] == [(3,), (3,), (1, 2), (1, 3), (1, 3)]


def test_half_of_a_stages_pictures_may_be_smaller(folder, monkeypatch):
    stages = (settings.Stage(40, 2, (1,)), settings.Stage(40, 2, (2, 3), smaller=True))
    training = train.Training(dataclasses.replace(TINY, stages=stages), folder, model.untrained(TINY), scale(folder))
    seen = []

    def logits(made, tokens, packed, change):
        seen.append((tokens.shape[1], change(tokens).shape[1]))
        return torch.zeros(*packed.labels.shape, len(words.WORDS))

    monkeypatch.setattr(train, "logits", logits)
    for training.step in range(80):
        training.loss()
    assert seen[:40] == [(36, 36)] * 40
    assert set(seen[40:]) == {(36, 9), (36, 6), (36, 4), (16, 16)}
    assert 10 <= seen[40:].count((16, 16)) <= 30


def test_pooled_tokens_are_means_of_rectangles():
    visual = torch.randn(2, 36, 5)
    found = train.pooled(visual, 3, 2)
    rectangles = visual.unflatten(1, (2, 3, 3, 2)).mean((2, 4)).flatten(1, 2)
    assert torch.allclose(found, rectangles, atol=1e-6)
    assert torch.equal(train.pooled(visual, 1, 1), visual)


def test_a_token_is_to_name_its_cell():
    given = scenes.scene("training", 3)
    shares = alignment.named(given, 8).view(8, 8, -1)
    assert torch.allclose(shares.sum(-1), torch.ones(8, 8))
    for number, cell in enumerate(scenes.CELLS):
        row, column = divmod(number, 4)
        expected = {*cell.split(), *given.things.get(cell, "nothing").split()}
        for token in shares[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(0, 1):
            assert {words.WORDS[number] for number in token.nonzero().flatten()} == expected


def test_alignment_lets_tokens_name_their_cells(trainings):
    made = model.untrained(TINY)
    before = digest(made)
    aligned = alignment.Alignment(
        dataclasses.replace(TINY, alignment_steps=30), trainings[0], made, scale(trainings[0])
    )
    first = aligned.loss().item()
    aligned.run()
    assert aligned.loss().item() < first - 0.1
    assert digest(made) != before


# Methods


def test_class_attention_of_the_cached_tower_is_that_of_the_tower(cached):
    options = {"method": "idpruner", "importance": "cls_attention", "k": 5, "lam": 1.0}
    kept = prune_inputs(cached, asked(), **options).kept_indices
    cached.model.vision_tower, cache = cached.model.vision_tower.real, cached.model.vision_tower
    real = prune_inputs(cached, {**asked(), "pixel_values": pixels()}, **options).kept_indices
    cached.model.vision_tower = cache
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(kept, real, strict=True))


@pytest.mark.parametrize("method", [each for each in every_method() if each.seed in (None, 1)], ids=lambda m: m.name)
def test_every_method_answers(method, cached):
    ratio = method.ratios[-1]
    ready = method.prepare(cached, asked(), ratio)
    with method.during(cached, asked(), ratio):
        output = cached.generate(**ready, max_new_tokens=3, do_sample=False)
    assert len(output) == 2
    assert 1 <= output.shape[1] - ready["input_ids"].shape[1] <= 3
    left = (ready["input_ids"] == cached.config.image_token_id).sum(1)
    if method.name not in (methods.UNPRUNED, methods.FASTV, methods.FASTV_LAST, methods.VTW, methods.DOWNSAMPLED):
        assert bool((left < 36).all())
    assert cached.model.language_model.config._attn_implementation != "eager"


def test_random_choices_differ_between_scenes_and_seeds(cached):
    first, second = (method for method in methods.methods(TINY) if method.name == methods.RANDOM)
    kept = [method.prepare(cached, asked(), 0.25).kept_indices for method in (first, second)]
    assert not torch.equal(kept[0][0], kept[0][1])
    assert not torch.equal(kept[0][0], kept[1][0])
    assert torch.equal(kept[0][1], first.prepare(cached, asked(), 0.25).kept_indices[1])


def test_prumerge_keeps_the_outliers_and_merges_into_them(cached):
    method, _ = named("PruMerge")
    ready = method.prepare(cached, asked(), 1.0)
    plain = cached.model.get_image_features(asked()["pixel_values"]).pooler_output
    merged = ready["mm_encoder_outputs"]["image"].pooler_output
    counts = (ready["input_ids"] == cached.config.image_token_id).sum(1).tolist()
    assert [len(each) for each in merged] == counts
    assert not any((row == tokens).all(-1).any() for each, tokens in zip(merged, plain, strict=True) for row in each)


def test_prumerge_is_compared_with_as_many_random_tokens(cached):
    names = (methods.PRUMERGE, methods.PRUMERGE_RANDOM)
    own, other = (named(name)[0].prepare(cached, asked(), 1.0)["input_ids"] for name in names)
    count = [(each == cached.config.image_token_id).sum(1).tolist() for each in (own, other)]
    assert count[0] == count[1]
    pruned = named(methods.PRUMERGE_RANDOM)[0].prepare(cached, asked(), 1.0)
    outliers = methods._outliers(cached, asked())[2]
    assert any(row[kept].sum() < len(kept) for row, kept in zip(outliers, pruned.kept_indices, strict=True))


@torch.no_grad()
def dropped_by_hand(made, inputs, layer, kept):
    """Logits of the prompt's last token, computed without the dropped tokens after the first layers."""
    decoder = made.model.language_model
    embeddings = decoder.embed_tokens(inputs["input_ids"])
    features_ = torch.cat(made.model.get_image_features(inputs["pixel_values"]).pooler_output)
    embeddings[inputs["input_ids"] == made.config.image_token_id] = features_
    positions = torch.arange(embeddings.shape[1]).unsqueeze(0)
    for number, each in enumerate(decoder.layers):
        if number == layer:
            embeddings, positions = embeddings[:, kept], positions[:, kept]
        length = embeddings.shape[1]
        mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
        rotary = decoder.rotary_emb(embeddings, positions)
        embeddings = each(embeddings, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
    return made.lm_head(decoder.norm(embeddings[:, -1]))


@pytest.mark.parametrize("of_last_token", [False, True])
@pytest.mark.parametrize("name", ["fastv", "vtw"])
def test_dropping_inside_the_decoder_is_dropping_by_hand(name, of_last_token, cached):
    inputs = model.inputs(["is there a red disc"], NUMBERS[:1], 36)
    visual = inputs["input_ids"] == cached.config.image_token_id
    chosen = []

    def choose(attention):
        choice = in_decoder.fastv(7)(attention) if name == "fastv" else in_decoder.vtw(1, 36)(attention)
        chosen.append(choice)
        return choice

    with torch.no_grad(), in_decoder.dropping(cached, visual, 2, choose, of_last_token=of_last_token):
        found = cached(**inputs).logits[:, -1]
    kept = torch.ones(visual.shape[1], dtype=torch.bool)
    kept[visual[0]] = chosen[0][0]
    assert int(kept.sum()) == visual.shape[1] - 36 + (7 if name == "fastv" else 0)
    assert torch.allclose(found, dropped_by_hand(cached, inputs, 2, kept), atol=1e-5)


def test_a_dropped_token_stays_dropped_while_decoding(cached):
    """Recomputing the whole sequence without a cache gives the same next tokens."""
    inputs = asked()
    visual = inputs["input_ids"] == cached.config.image_token_id
    kept = torch.zeros(2, 36, dtype=torch.bool)
    kept[:, ::5] = True
    with in_decoder.dropping(cached, visual, 1, lambda attention: kept):
        output = cached.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    longer = dict(inputs, input_ids=output[:, :-1], attention_mask=torch.ones_like(output[:, :-1]))
    with (
        torch.no_grad(),
        in_decoder.dropping(cached, longer["input_ids"] == cached.config.image_token_id, 1, lambda _: kept),
    ):
        logits = cached(**longer).logits[:, -1]
    logits[:, words.NUMBERS[words.END]] = -torch.inf
    assert torch.equal(logits.argmax(-1), output[:, -1])


def test_loops_select_in_their_dtype(cached):
    seen = []

    def loop(x, k):
        seen.append((x.dtype, x.shape))
        return torch.arange(k)

    instead = loops.Instead("first", "DivPrune", {"method": "divprune"}, loop, torch.bfloat16)
    with loops.selecting(instead):
        pruned = prune_inputs(cached, asked(), method="divprune", keep_ratio=0.25)
    assert seen == [(torch.bfloat16, (36, TINY.hidden_size))] * 2
    assert [each.tolist() for each in pruned.kept_indices] == [list(range(9))] * 2


# Answers


def test_cells_have_names_of_their_own():
    names = [cell.name for cell in evaluate.cells(settings.FULL)]
    assert len(set(names)) == len(names)


def test_answers_are_those_of_single_questions(made, folder):
    store, given = features.opened(TINY, folder)[features.HELD_OUT], evaluate.asked(TINY)
    cell = next(each for each in evaluate.cells(TINY) if each.method.name == methods.DIVPRUNE and each.ratio == 0.25)
    found = evaluate.answered(made, cell, store, given)
    assert found["tokens"] == 9
    question = given[2][1]
    inputs = {"input_ids": torch.tensor([words.prompt(question.text, 36)]), "pixel_values": pixels([2])}
    pruned = prune_inputs(made, inputs, method="divprune", keep_ratio=0.25)
    output = made.generate(**pruned, max_new_tokens=evaluate.MOST_NEW_TOKENS, do_sample=False)
    assert words.decode(output[0, pruned["input_ids"].shape[1] :].tolist()) == found["answers"][2][1]


def test_a_prompt_that_is_padded_is_answered_as_alone(made, folder):
    """A loop that repeats picks leaves one picture fewer tokens than the others."""
    inputs = model.inputs(["read the digits"], [1], 36)
    loop = loops.Instead("", "", {"method": "divprune"}, lambda x, k: torch.zeros(k, dtype=torch.int64), torch.float32)
    store, given = features.opened(TINY, folder)[features.HELD_OUT], evaluate.asked(TINY)
    real = made.model.vision_tower
    made.model.vision_tower = model.CachedTower(real, store)
    try:
        alone = methods._instead(loop).prepare(made, inputs, 0.25)
        output = made.generate(**alone, max_new_tokens=evaluate.MOST_NEW_TOKENS, do_sample=False)
    finally:
        made.model.vision_tower = real
    calls = itertools.count()
    picks = lambda x, k: torch.arange(k) * (next(calls) % 3 != 1)  # noqa: E731
    cell = evaluate.Cell(methods._instead(dataclasses.replace(loop, loop=picks)), 0.25)
    found = evaluate.answered(made, cell, store, given)
    assert found["tokens"] == pytest.approx((9 + 1 + 9) / 3)
    assert words.decode(output[0, alone["input_ids"].shape[1] :].tolist()) == found["answers"][1][0]
