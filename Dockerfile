# The server, from the wheels in wheels/ alone (docs/installing.md says how they get there):
#   docker build --network none -t eachmask .
#   docker run -p 8000:8000 -e EACHMASK_KEY=... eachmask
FROM python:3.12-slim
# They are there while they are installed, and are no part of the image.
RUN --mount=type=bind,source=wheels,target=/wheels \
    pip install --no-index --find-links /wheels 'eachmask[serve]' && useradd --create-home eachmask
USER eachmask
EXPOSE 8000
ENTRYPOINT ["eachmask", "serve"]
CMD ["objects", "--host", "0.0.0.0"]
