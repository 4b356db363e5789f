"""What the screens of runs are made of besides their widgets: columns, the filter's words, labels, details.

It knows the service and the page; it knows no screen.
"""
