"""Open an address in the default browser."""

import os
import webbrowser

__all__ = ["opens_in_browser"]


def opens_in_browser(address: str) -> bool:
    """Open an address in the default browser; return False if no browser is available."""
    try:
        browser = webbrowser.get()
        # Without a display, `webbrowser` falls back to browsers in the terminal, which cannot show the page and block.
        # One that the user has named in BROWSER is fine.
        in_terminal = type(browser) is webbrowser.GenericBrowser and not os.environ.get("BROWSER")
        return not in_terminal and browser.open(address)
    except (webbrowser.Error, OSError):
        return False
