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
figure.take progress { width: 100%; height: .6rem; margin: .4rem 0 0;
  accent-color: var(--color-accent); }
figure.take figcaption { font-size: .9rem; margin-top: .2rem; }
"""
# The browser itself keeps the page from loading anything from elsewhere.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; frame-ancestors *; "
    "connect-src 'self' data: blob: ws: wss:"
)


def theme() -> gr.themes.Base:
    """Gradio's own theme without fonts from the network."""
    return gr.themes.Soft(
        primary_hue="indigo",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
