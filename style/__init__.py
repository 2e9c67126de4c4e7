"""Image style on normalised features: transfer, texture, inversion, amalgamation.

    from style import evaluation, synthesis

    shape, start = content.shape[:2], synthesis.as_batch(content)
    terms = synthesis.content_terms(model, [("block4_conv2", 1.0)], 1.0, shape=shape)
    terms += synthesis.style_terms(
        model, [synthesis.Style(painting)], [("block1_conv1", 1.0)], 1.0, shape=shape
    )
    evaluate = evaluation.evaluator(model, terms, shape, content=start, tile=0)
    method = synthesis.optimizer("lbfgs", evaluate, shape)
    for state in synthesis.minimize(method, start, evaluations=300):
        print(int(state.evaluations), float(state.value))
    picture = state.x[0]

Pictures are float32, RGB, [H, W, 3], in [0, 1].  Nothing here needs flags.
"""
