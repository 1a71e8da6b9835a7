"""pellucid: what has my network learned?"""
