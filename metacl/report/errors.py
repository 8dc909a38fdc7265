"""What a user can mend, in a sentence: faults of the disk, of permissions and of memory."""

import errno

from safetensors import SafetensorError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
ADVICE = {
    **dict.fromkeys(FULL, "Make room there, then go on with --resume: nothing that was written before is lost."),
    **dict.fromkeys(DENIED, "Give yourself the right to it, or name another place."),
    errno.ENOTDIR: "A part of that path is a file. Name another place.",
    errno.EEXIST: "Something else is there. Name another place.",
    errno.EBADF: "A file, or the screen, was closed from outside. Start with an output that is open, or > FILE.",
    errno.EISDIR: "That is a folder, where a file should be. Move it away.",
    errno.ENOENT: "It is missing, or was removed in the meantime. Check the path.",
    errno.ENOTEMPTY: "Something else writes there. Name another place.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "Its links lead round in a circle. Name another place.",
    errno.EMFILE: "Too many files are open: fewer --workers, or raise the limit with ulimit -n.",
    errno.ENFILE: "Too many files are open on this machine.",
    errno.ENOMEM: "A smaller --batch-size, fewer --workers, shorter streams, smaller images or a smaller learner need less.",
    errno.EIO: "The disk cannot read or write it any more. Copy what is left to another one.",
    errno.ESTALE: "The network disk has lost it. Mount it again, then go on with --resume.",
}
"""What to do, by the number of the error."""
OTHER_PROCESS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "recvValue failed")
"""What torch says in a `RuntimeError` of a process that does not answer any more."""
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""What torch says in a `RuntimeError`."""


def in_words(error: BaseException) -> str | None:
    """The sentence; None where the error is not one that a user could mend."""
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        return f"{what}. {ADVICE.get(error.errno or 0, 'Check the disk and the path, then try again.')}"
    if isinstance(error, SafetensorError):  # it writes the files itself, and says of a full disk what the system says
        return f"A file of tensors cannot be written or read ({error}). Check the disk, then go on with --resume."
    if isinstance(error, RuntimeError) and any(words in str(error) for words in OTHER_PROCESS):
        return (
            f"Another process of this run has ended ({str(error).splitlines()[0]}). What it said tells why; then go on with "
            "--resume."
        )
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        what = f" ({str(error).splitlines()[0]})" if str(error) else ""
        return f"Memory ran out{what}. {ADVICE[errno.ENOMEM]}"
    return None
