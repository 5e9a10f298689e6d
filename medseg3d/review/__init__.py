"""A page to look at predictions with, worst case first; it opens without a server.

::

    review/
      index.html assets/           the page
      cases.js                     the work list: scores, volumes, reasons to look
      cases/0001.js                image and label maps of one case, loaded when it is chosen
      thumbnails/0001.png
"""
