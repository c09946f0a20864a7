"""A picture of a page, by the browser engine that comes with Qt: ``pip install PyQt6-WebEngine``.

python docs/pictures/screenshot.py report.html report.png --width 1280 --height 900
python docs/pictures/screenshot.py site/index.html phone.png --width 390 --height 2400 --dark
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def shoot(
    page: Path, target: Path, width: int, height: int, dark: bool = False, top: int = 0, script: str = ""
) -> float:
    """Writes a PNG of ``page`` seen through a window of ``width`` x ``height`` pixels, scrolled down by ``top``.

    Returns:
        The width in pixels that the page's content asks for: above ``width`` it has to be scrolled sideways.
    """
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    flags = "--no-sandbox --disable-gpu --hide-scrollbars --force-color-profile=srgb"
    if dark:
        flags += " --blink-settings=preferredColorScheme=0"
    os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = flags
    from PyQt6.QtCore import QEventLoop, QTimer, QUrl
    from PyQt6.QtWebEngineCore import QWebEngineSettings
    from PyQt6.QtWebEngineWidgets import QWebEngineView
    from PyQt6.QtWidgets import QApplication

    app = QApplication.instance() or QApplication(sys.argv[:1])
    view = QWebEngineView()
    view.settings().setAttribute(QWebEngineSettings.WebAttribute.LocalContentCanAccessFileUrls, True)
    view.resize(width, height)
    view.show()

    def wait(milliseconds: int) -> None:
        loop = QEventLoop()
        QTimer.singleShot(milliseconds, loop.quit)
        loop.exec()

    loaded = QEventLoop()
    view.loadFinished.connect(loaded.quit)
    view.load(QUrl.fromLocalFile(str(page.resolve())))
    loaded.exec()
    asked: list[float] = []
    rule = "{textContent: '::-webkit-scrollbar{display:none}'}"
    hide = f"document.head.append(Object.assign(document.createElement('style'), {rule}))"
    view.page().runJavaScript(
        f"{hide}; {script}; window.scrollTo(0, {top}); document.documentElement.scrollWidth", 0, asked.append
    )
    wait(1500)
    view.grab().save(str(target))
    view.close()
    app.processEvents()
    return asked[0] if asked else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--top", type=int, default=0, help="pixels to scroll down")
    parser.add_argument("--script", default="", help="JavaScript to run first")
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    if not given.page.is_file():
        sys.exit(f"{given.page}: no such page")
    asked = shoot(given.page, given.target, given.width, given.height, given.dark, given.top, given.script)
    print(f"wrote {given.target}; the content is {asked:.0f} pixels wide")


if __name__ == "__main__":
    main()
