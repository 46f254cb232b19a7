"""Attacks on erased models: is the concept gone, or only its name?"""
