"""The images of README.md, made of scikit-image's own (public domain; coins: Brooklyn Museum's terms, see below).

    python docs/images/make_readme_images.py

chelsea.png (CC0, Stefan van der Walt), coffee.png (CC0, Rachel Michetti), hubble_deep_field.jpg (NASA, public domain):
scikit-image's own notes, https://scikit-image.org/docs/stable/api/skimage.data.html.
"""
