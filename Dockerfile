# `make image` builds what this copies: the binary, and an empty directory for the
# data, since nothing in an image from scratch could make one or give it an owner.
FROM scratch
COPY streambus /usr/bin/streambus
COPY --chown=65532:65532 data /var/lib/streambus
USER 65532:65532
VOLUME /var/lib/streambus
ENV KAFKA_LOG_DIRS=/var/lib/streambus \
    KAFKA_LISTENERS=PLAINTEXT://:9092 \
    KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://localhost:9092 \
    KAFKA_STREAMBUS_ADMIN_LISTEN=:9644
EXPOSE 9092 9644
ENTRYPOINT ["streambus"]
CMD ["serve"]
