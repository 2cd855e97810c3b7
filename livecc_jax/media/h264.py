"""Reads of an H.264 stream whether a packet holds the second field of an interlaced frame.

An encoder may store each of a frame's two fields as a picture of its own (ITU-T H.264, 7.3.3:
`field_pic_flag`). Containers such as transport streams put them into two packets with a timestamp each;
a decoder makes one frame of them, which has the first one's timestamp.
"""

from __future__ import annotations

from collections.abc import Iterator

SLICE, IDR_SLICE, PARAMETERS, PICTURE_PARAMETERS = 1, 5, 7, 8  # types of units
HEADER_BYTES = 64  # the start of a slice, which holds all that is read of it
PARAMETER_BYTES = 1024
# Profiles whose parameters also say how colours are sampled (7.3.2.1.1).
HIGH_PROFILES = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)


class _Bits:
    """Reads bits of a unit, without the bytes that prevent start codes."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """Returns the next bits as a number. Raises ValueError when there are too few."""
        if count > self._left:
            raise ValueError("the unit ends early")
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def exp_golomb(self) -> int:
        """Returns the next unsigned Exp-Golomb code."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """Returns the next signed Exp-Golomb code."""
        code = self.exp_golomb()
        return (code + 1) // 2 if code % 2 else -code // 2


class FieldPairs:
    """Finds the second fields among a stream's packets, which are given in the order of storage.

    Args:
        extradata: The codec's header as the container stores it: `avcC`, a byte stream, or nothing.
    """

    def __init__(self, extradata: bytes | None) -> None:
        data = extradata or b""
        self._length_bytes = 0  # of the size before each unit; 0 is a byte stream with start codes
        # Bits of a frame's number, whether planes are apart and whether there are fields, by number.
        self._parameters: dict[int, tuple[int, bool, bool]] = {}
        self._parameters_of: dict[int, int] = {}  # by number of the picture parameters
        self._first_field: tuple[int, int] | None = None  # frame number and parity
        if len(data) > 6 and data[0] == 1:
            self._length_bytes = (data[4] & 3) + 1
            for unit in _units_of_avcc(data):
                self._read_parameters(unit)
        else:
            for unit in _split_byte_stream(data):
                self._read_parameters(unit)

    @property
    def may_hold_fields(self) -> bool:
        """Whether the parameters read so far allow fields, or none were read."""
        return not self._parameters or any(p[2] for p in self._parameters.values())

    def is_second_field(self, data: bytes, is_key: bool) -> bool:
        """Whether a packet holds the second field of the frame that the packet before began.

        Args:
            data: The packet.
            is_key: Whether it is a key frame, which may come with new parameters.
        """
        if not is_key and not self.may_hold_fields:
            return False
        if self._length_bytes:
            units = _split_sized(data, self._length_bytes)
        else:
            units = _split_byte_stream(data)
        for unit in units:
            kind = unit[0] & 31
            if kind in (PARAMETERS, PICTURE_PARAMETERS):
                self._read_parameters(unit)
            elif kind in (SLICE, IDR_SLICE):
                return self._is_second(unit)
        return False

    def _read_parameters(self, unit: bytes) -> None:
        try:
            bits = _Bits(unit[1:PARAMETER_BYTES])
            if unit[0] & 31 == PARAMETERS:
                number, parameters = _sequence_parameters(bits)
                self._parameters[number] = parameters
            elif unit[0] & 31 == PICTURE_PARAMETERS:
                number = bits.exp_golomb()
                self._parameters_of[number] = bits.exp_golomb()
        except ValueError:
            return  # a damaged unit says nothing

    def _is_second(self, unit: bytes) -> bool:
        first, self._first_field = self._first_field, None
        try:
            bits = _Bits(unit[1:HEADER_BYTES])
            bits.exp_golomb()  # first macroblock
            bits.exp_golomb()  # slice type
            number = self._parameters_of.get(bits.exp_golomb(), 0)
            number_bits, planes_apart, fields = self._parameters.get(number, (0, False, False))
            if not fields:
                return False
            bits.take(2 if planes_apart else 0)
            frame_number = bits.take(number_bits)
            if not bits.take(1):
                return False
            parity = bits.take(1)
        except ValueError:
            return False
        if first == (frame_number, 1 - parity):
            return True
        self._first_field = (frame_number, parity)
        return False


def _sequence_parameters(bits: _Bits) -> tuple[int, tuple[int, bool, bool]]:
    """Returns the number of sequence parameters, and of them what `FieldPairs` keeps."""
    profile = bits.take(8)
    bits.take(16)  # constraints and level
    number = bits.exp_golomb()
    planes_apart = False
    if profile in HIGH_PROFILES:
        sampling = bits.exp_golomb()
        planes_apart = sampling == 3 and bool(bits.take(1))
        bits.exp_golomb(), bits.exp_golomb(), bits.take(1)  # bit depths, lossless
        if bits.take(1):
            for i in range(12 if sampling == 3 else 8):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    number_bits = bits.exp_golomb() + 4
    order = bits.exp_golomb()
    if order == 0:
        bits.exp_golomb()
    elif order == 1:
        bits.take(1), bits.signed(), bits.signed()
        for _ in range(bits.exp_golomb()):
            bits.signed()
    bits.exp_golomb(), bits.take(1), bits.exp_golomb(), bits.exp_golomb()  # references, gaps, size
    return number, (number_bits, planes_apart, not bits.take(1))


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last, following = 8, 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


def _units_of_avcc(data: bytes) -> Iterator[bytes]:
    position = 6
    for count in (data[5] & 31, None):
        if count is None:
            if position >= len(data):
                return
            count, position = data[position], position + 1
        for _ in range(count):
            size = int.from_bytes(data[position : position + 2], "big")
            if unit := data[position + 2 : position + 2 + size]:
                yield unit
            position += 2 + size


def _split_sized(data: bytes, length_bytes: int) -> Iterator[bytes]:
    position = 0
    while position + length_bytes < len(data):
        size = int.from_bytes(data[position : position + length_bytes], "big")
        position += length_bytes
        if unit := data[position : position + min(size, PARAMETER_BYTES)]:
            yield unit
        position += size


def _split_byte_stream(data: bytes) -> Iterator[bytes]:
    """Yields the units after start codes; only their beginning, since their end is not looked for."""
    position = data.find(b"\0\0\1")
    while 0 <= position < len(data) - 3:
        position += 3
        yield data[position : position + PARAMETER_BYTES]
        position = data.find(b"\0\0\1", position)
