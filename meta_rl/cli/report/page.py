def write_report(d, o=None): pass
