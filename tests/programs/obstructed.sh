#!/bin/sh
# A stage that a test can hold or fail: obstructed.sh FLAG COMMAND...
#
# Waits while FLAG.hold exists. Fails while FLAG.fail exists, and once for each FLAG.once.*, which it removes.
# Otherwise executes COMMAND.
flag=$1
shift
while [ -e "$flag.hold" ]; do sleep 0.05; done
if [ -e "$flag.fail" ]; then
    echo "broken on purpose" >&2
    exit 1
fi
for once in "$flag".once.*; do
    if [ -e "$once" ]; then
        rm "$once"
        echo "broken on purpose for once" >&2
        exit 1
    fi
done
exec "$@"
