"""Exports: an edit in the forms that other programs read, one file per form.

The table of forms is `erasekit.exports.formats.FORMATS`; it needs no torch.
"""
