"""How the pages look: fonts of the machine, a few rules, and what a browser may load."""

from __future__ import annotations

import gradio as gr

TITLE = "style studio"
CSS = """
.gradio-container { max-width: 1500px !important; }
figure.take { margin: 0; }
figure.take .frame { display: grid; place-items: center; min-height: 260px; background: #f3f2ee;
  border-radius: 8px; overflow: hidden; color: #3d3d3a; text-align: center; }
figure.take .frame p { padding: 1rem; color: #3d3d3a; }
figure.take img { width: 100%; max-height: 75vh; object-fit: contain; display: block; }
button[role="tab"][aria-selected="true"] { color: #4338ca !important; }
.empty, .wrap .or { color: #52525b !important; }
img.curve { width: 100%; }
figure.take progress { width: 100%; height: .6rem; margin: .4rem 0 0;
  accent-color: #4f46e5; }
figure.take progress::-webkit-progress-value { background: #4f46e5; }
figure.take figcaption { font-size: .9rem; margin-top: .2rem; }
"""
# Gradio asks for the next frame of its animations for ever, which took 6 to 8 % of a core beside the
# take that runs: while nobody touches the page, QUIET milliseconds apart is often enough.
# The rest is what keeps readers of screens from Gradio's own fields: a label on a field without a
# role, and a button to upload inside a button.
HEAD = """<script>
const QUIET = 250;
const nextFrame = requestAnimationFrame.bind(window), cancel = cancelAnimationFrame.bind(window);
let touched = performance.now();
for (const kind of ["pointermove", "pointerdown", "keydown", "wheel"])
  addEventListener(kind, () => { touched = performance.now(); }, {capture: true, passive: true});
window.requestAnimationFrame = draw => performance.now() - touched < 1000
  ? nextFrame(draw) : -setTimeout(() => draw(performance.now()), QUIET);
window.cancelAnimationFrame = id => id < 0 ? clearTimeout(-id) : cancel(id);
new MutationObserver(() => {
  for (const field of document.querySelectorAll("div[aria-label]:not([role])"))
    field.setAttribute("role", "group");
  for (const outer of document.querySelectorAll("button:has(button):not([role])")) {
    outer.setAttribute("role", "group");
    outer.tabIndex = -1;
  }
}).observe(document, {childList: true, subtree: true});
</script>"""
# The browser itself keeps the page from loading anything from elsewhere.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; frame-ancestors *; "
    "connect-src 'self' data: blob: ws: wss:"
)


def theme() -> gr.themes.Base:
    """Gradio's own theme without fonts from the network, and with text that stands out enough."""
    plain = gr.themes.Default(
        primary_hue="indigo",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    dark, quiet = "*neutral_800", "*neutral_600"
    return plain.set(
        **dict.fromkeys(("block_label_text_color", "block_title_text_color"), dark),
        **dict.fromkeys(("block_info_text_color", "body_text_color_subdued"), quiet),
        input_placeholder_color=quiet,
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
        checkbox_label_background_fill_selected="*primary_600",
        checkbox_label_text_color_selected="white",
    )
