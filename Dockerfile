# A language model behind HTTP; not tried on the machine that this was written on.
# Build: docker build -t language .
# Start: docker run -p 8000:8000 -v "$PWD/runs:/project/runs:ro" language --ckpt_path runs/language/NAME
FROM python:3.11-slim
WORKDIR /project
COPY requirements/lock.txt requirements/lock.txt
RUN pip install --no-cache-dir --require-hashes -r requirements/lock.txt
COPY lightning_project lightning_project
COPY datamodules datamodules
COPY modules modules
COPY callbacks callbacks
COPY configs configs
RUN useradd server
USER server
EXPOSE 8000
ENTRYPOINT ["python", "-m", "lightning_project", "serve", "--host", "0.0.0.0"]
CMD ["--ckpt_path", "best"]
