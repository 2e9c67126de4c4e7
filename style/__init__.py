"""Image style on normalised features: transfer, texture, inversion, amalgamation.

    from style import objective, synthesis

    terms = synthesis.content_terms(model, content, [("block4_conv2", 1.0)], 1.0)
    terms += synthesis.style_terms(
        model, [synthesis.Style(painting)], [("block1_conv1", 1.0)], 100.0, shape=content.shape[:2]
    )
    evaluate = objective.evaluation(model, terms)
    method = synthesis.optimizer("lbfgs", evaluate, content.shape[:2])
    for state in synthesis.minimize(method, synthesis.as_batch(content), evaluations=300):
        print(int(state.evaluations), float(state.value))
    picture = state.x[0]

Pictures are float32, RGB, [H, W, 3], in [0, 1].  Nothing here needs flags.
"""
