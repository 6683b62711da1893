import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdomains.errors import InputError
from seqdomains.genomics.windows import Region, count_windows, least_tail, read_bed, tile, write_bed


@given(st.integers(0, 300), st.integers(1, 60), st.one_of(st.none(), st.integers(1, 80)))
@settings(max_examples=200, deadline=None)
def test_tiling_rules(length, window, stride):
    windows = list(tile(length, window=window, stride=stride))
    step = stride or window
    assert count_windows(length, window=window, stride=stride) == len(windows)
    assert [start for start, _ in windows] == [number * step for number in range(len(windows))]
    assert all(0 <= start < end <= length for start, end in windows)
    whole = [end - start == window for start, end in windows]
    assert all(whole[:-1])
    if length < window:
        assert windows == []
        return
    assert whole[0]
    start, end = windows[-1]
    if not whole[-1]:
        assert end == length
        assert end - start >= least_tail(window)
        assert windows[-2][1] < length
    rest = length - (start + step)
    if end < length:  # what is left out is too short for a window of its own
        assert rest < least_tail(window)


def test_tail_of_exactly_half_a_window():
    assert list(tile(192, window=128))[-1] == (128, 192)
    assert list(tile(191, window=128))[-1] == (0, 128)


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (4, -1)])
def test_window_and_stride_are_positive(window, stride):
    with pytest.raises(ValueError, match="at least 1"):
        list(tile(10, window=window, stride=stride))


def test_bed_is_read_with_its_headers_and_blanks(tmp_path):
    path = tmp_path / "a.bed"
    path.write_text("browser position chr1\ntrack name=a\n#x\n\nchr1\t0\t5\nchr 2\t3\t4\tpiece\t0\t+\nchr3 7 9 x\n")
    assert read_bed(path) == (
        Region("chr1", 0, 5, "", 5),
        Region("chr 2", 3, 4, "piece", 6),
        Region("chr3", 7, 9, "x", 7),
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr1\t5", "line 2: expected contig, start and end"),
        ("chr1", "line 2: expected contig, start and end"),
        ("chr1\t-1\t5", "line 2: start '-1'"),
        ("chr1\t1.5\t5", "line 2: start '1.5'"),
        ("\t0\t1", "line 2: expected contig, start and end"),
        ("chr1\t0\t" + "9" * 5000, "line 2: start '0' and end '9999"),
        ("chr1\t0\t٣", "line 2: start '0' and end '٣'"),
        ("chr1\t5\t5", "line 2: start 5 is not below end 5; BED is 0-based"),
        ("chr1\tx\ty", "line 2: start 'x' and end 'y'"),
    ],
)
def test_bad_bed_lines_are_named(tmp_path, line, message):
    path = tmp_path / "a.bed"
    path.write_text(f"#header\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_bed(path)


def test_bed_without_regions_and_missing_bed(tmp_path):
    path = tmp_path / "a.bed"
    path.write_text("track x\n")
    with pytest.raises(InputError, match="holds no region"):
        read_bed(path)
    with pytest.raises(InputError, match=r"cannot be read as BED: No such file or directory$"):
        read_bed(tmp_path / "none.bed")


def test_written_bed_reads_back_and_a_failure_leaves_nothing(tmp_path):
    path = tmp_path / "a.bed"
    write_bed(path, [("chr1", 0, 5, "x"), ("chr2", 3, 9, "y")], header="contig\tstart\tend\tclass")
    assert [(r.contig, r.start, r.end, r.name) for r in read_bed(path)] == [("chr1", 0, 5, "x"), ("chr2", 3, 9, "y")]

    def failing():
        yield ("chr1", 0, 5)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_bed(tmp_path / "b.bed", failing())
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bed"]
