"""The Triton kernels' machine code, compiled without a GPU: every kernel and configuration on every architecture."""

import functools
import re
import subprocess

import pytest
import torch

triton = pytest.importorskip("triton", reason="the Triton backend needs triton")
if triton.knobs.runtime.interpret:
    pytest.skip("interpreted kernels have no machine code", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from tests.support.slow import slow_if  # noqa: E402
from tokenprune_kernels.backends.triton import configs, kernels, operators, runtime  # noqa: E402
from tokenprune_kernels.backends.triton.forms import base, materialised  # noqa: E402

ARCHITECTURES = (80, 90, 100)
POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
TENSOR_CORE = {80: r"\bHMMA\.", 90: r"\bHGMMA\.", 100: r"\bUTC\w*MMA\b"}
LOCAL_MEMORY = r"\b(LDL|STL)\b"
ALIGNED = {"ALIGNMENT": 8, "VARLEN": False, "plan": None}
UNALIGNED = {"ALIGNMENT": 1, "VARLEN": True}


def compiled(kernel, architecture, tensors, constants, **options):
    """The kernel as `runtime.launch` would have it compiled, with 16-byte aligned tensors of the given dtypes."""
    pointers = {name: POINTERS[dtype] for name, dtype in tensors.items()}
    signature, constexprs, attributes = {}, {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            constexprs[(position,)] = constants[name]
        elif name in pointers:
            signature[name] = pointers[name]
            attributes[(position,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if name.endswith("_weight") else "i32"
    target = architecture if isinstance(architecture, GPUTarget) else GPUTarget("cuda", architecture, 32)
    source = ASTSource(kernel, signature, constexprs, attributes)
    return triton.compile(source, target=target, options=runtime.OPTIONS | options)


@functools.cache
def _disassembled(binary, directory):
    """All of a kernel's machine code: Triton's own disassembly ends after 4,096 instructions."""
    file = directory / "kernel.cubin"
    file.write_bytes(binary)
    command = [triton.knobs.nvidia.cuobjdump.path, "-sass", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def machine_code(tmp_path):
    return lambda kernel: _disassembled(kernel.asm["cubin"], tmp_path)


def registers(code):
    return 1 + max(int(register) for register in re.findall(r"\bR(\d+)\b", code))


def similarity_tensors(dtype, plan):
    workspaces = dict.fromkeys(("reciprocal_norm", "similarity", "row_maximum", "partial_sums"), torch.float32)
    return {"x": dtype, "arrival_counters": torch.int32} | workspaces | ({"plan": torch.int64} if plan else {})


def similarity_kernel(config, architecture, dtype, depth, layout):
    return compiled(
        kernels.similarity_kernel,
        architecture,
        similarity_tensors(dtype, "plan" not in layout),
        materialised.similarity_constants(config, depth, "divprune") | layout,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def configurations():
    for architecture in ARCHITECTURES:
        for number, config in enumerate(configs.SIMILARITY):
            if architecture < config.oldest_architecture:
                continue
            for dtype in (torch.float16, torch.bfloat16, torch.float32):
                if dtype.itemsize in config.element_sizes:
                    name = f"sm_{architecture}-row {number}-{str(dtype).removeprefix('torch.')}"
                    yield pytest.param(architecture, config, dtype, id=name)


@pytest.mark.parametrize(("architecture", "config", "dtype"), list(configurations()))
@slow_if(lambda architecture: architecture != 90)
def test_similarity_pass(machine_code, architecture, config, dtype):
    kernel = similarity_kernel(config, architecture, dtype, min(4096, config.largest_d), ALIGNED)
    code = machine_code(kernel)
    tensor_core_products = len(re.findall(TENSOR_CORE[architecture], code))
    if dtype == torch.float32:
        assert tensor_core_products == 0  # TF32 is not float32
        assert "FFMA" in code
    else:
        assert tensor_core_products > 0
    # Without a pipeline, rows come in by plain loads.
    copies = re.findall(r"\b(?:LDGSTS|UTMALDG)\S*" if config.num_stages > 1 else r"\bLDG\.\S*128\S*", code)
    assert copies
    assert all("128" in copy or "UTMALDG" in copy for copy in copies)
    assert not re.search(LOCAL_MEMORY, code)
    assert registers(code) <= config.registers
    assert kernel.metadata.shared <= config.shared_memory


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("depth", [33, 1_001])
@slow_if(lambda architecture, depth: architecture != 90 or depth != 33)
def test_similarity_pass_of_an_odd_layout(machine_code, architecture, dtype, depth):
    config = configs.similarity_config(dtype.itemsize, 2_880, depth, architecture, aligned=False)
    kernel = similarity_kernel(config, architecture, dtype, depth, UNALIGNED)
    code = machine_code(kernel)
    assert bool(re.search(TENSOR_CORE[architecture], code)) == (dtype != torch.float32)
    assert not re.search(LOCAL_MEMORY, code)
    assert kernel.metadata.shared <= config.shared_memory


def greedy_kernel(architecture, block_n, method):
    config = configs.greedy_config(block_n)
    tile = configs.similarity_config(2, block_n, 4096, architecture, aligned=True)
    tensors = dict.fromkeys(("similarity", "row_maximum", "reciprocal_norm", "relevance", "scores"), torch.float32)
    return compiled(
        kernels.greedy_kernel,
        architecture,
        tensors | {"indices": torch.int64},
        materialised.greedy_constants(block_n, tile, method, with_scores=True) | {"VARLEN": False, "plan": None},
        num_warps=config.num_warps,
    )


GREEDY_BLOCKS = [
    (method, block_n)
    for method in ("divprune", "mmr", "idpruner")
    for block_n in (64, *sorted({config.block_n for config in configs.GREEDY}))
    # From half as many rows on, the other methods take the lazy greedy form.
    if not configs.lazy_greedy_wins(method, block_n // 2 + 1) or method == "divprune"
]


@pytest.mark.parametrize(("method", "block_n"), GREEDY_BLOCKS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@slow_if(lambda architecture, block_n: architecture != 90 or block_n > 1_024)
def test_greedy_loop(architecture, block_n, method):
    config = configs.greedy_config(block_n)
    code = greedy_kernel(architecture, block_n, method).asm["sass"]
    loop = code[code.index("REDUX.MIN") :]
    if architecture < 100:  # sm_100 predicates its loops in other ways
        loop = greedy_loop(code)
        # Triton has three barriers to a reduction, and one to spread the rows where there are fewer than threads.
        assert len(re.findall(r"\bBAR\.SYNC", loop)) <= (3 if block_n >= 32 * config.num_warps else 4)
        assert len(re.findall(r"\bREDUX\.", loop)) == 2
    assert re.search(r"\bLDG\.\S*128", loop) or block_n < 4 * 32 * config.num_warps
    assert not re.search(LOCAL_MEMORY, code)
    assert registers(code) <= config.registers


def greedy_loop(code):
    """The lines of the loop over picks: from a label to the last branch back to it that has both reductions between."""
    lines = code.splitlines()
    labels = {line[:-1]: number for number, line in enumerate(lines) if line.startswith("LBB")}
    for number, line in reversed(list(enumerate(lines))):
        target = re.search(r"\bBRA\S* (LBB\d+)", line)
        if target and labels.get(target[1], len(lines)) < number:
            loop = "\n".join(lines[labels[target[1]] : number])
            if "REDUX.MAX" in loop and "REDUX.MIN" in loop:
                return loop
    raise AssertionError("no loop with both reductions")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@slow_if(lambda architecture: architecture != 100)  # where ptxas once fused them
def test_scores_are_not_fused(architecture):
    code = greedy_kernel(architecture, 512, "mmr").asm["sass"]
    assert "FMUL" in code
    assert "FFMA" not in code


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@slow_if(lambda architecture: architecture != 90)
def test_scaled_importance_is_read_behind_a_barrier(architecture):
    code = greedy_kernel(architecture, 512, "idpruner").asm["ttgir"]
    scaled = code.index("tt.store")
    assert "barrier" in code[scaled : code.index("tt.load", scaled)]


def test_the_chunk_is_the_one_that_bounds_the_truncation():
    assert kernels.CHUNK.value == 1_024


def grid_kernel(kernel, architecture, dtype, layout, depth, method, candidates):
    """The outlier search, or the lazy greedy kernel, as `runtime.launch` would have it compiled."""
    config = configs.lazy_greedy_config(dtype.itemsize, architecture, aligned=layout is ALIGNED)
    tensors = {"x": dtype, "reciprocal_norm": torch.float32, "indices": torch.int64, "scores": torch.float32}
    tensors |= dict.fromkeys(("keys", "candidate_rows", "state", "outlier_keys"), torch.int32) | {"gram": torch.float32}
    constants = base.tile_constants(config, depth) | {"WITH_SCORES": True, "CANDIDATE_N": candidates} | layout
    if kernel is kernels.lazy_greedy_kernel:
        tensors |= {"partial_sums": torch.float32, "arrival_counters": torch.int32}
        constants |= {"METHOD": method, "WARPS": config.num_warps}
        constants |= {"relevance": None} if method == "divprune" else {}
        tensors |= {} if method == "divprune" else {"relevance": torch.float32}
    tensors |= {} if "plan" in layout else {"plan": torch.int64}
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages} | runtime.COOPERATIVE_OPTIONS
    return config, compiled(kernel, architecture, tensors, constants, **options)


def grid_kernels():
    for architecture in ARCHITECTURES:
        for dtype in (torch.bfloat16, torch.float32):
            for layout, depth in ((ALIGNED, 4_096), (UNALIGNED, 1_001)):
                counts = sorted(
                    {row.candidates for row in configs.CANDIDATE_COUNTS if dtype.itemsize in row.element_sizes}
                )
                forms = [
                    (kernels.outlier_kernel, "divprune", counts[-1]),
                    (kernels.lazy_greedy_kernel, "divprune", counts[0]),
                    (kernels.lazy_greedy_kernel, "mmr", counts[-1]),
                ]
                for kernel, method, candidates in forms:
                    element = str(dtype).removeprefix("torch.")
                    name = f"sm_{architecture}-{element}-D {depth}-{kernel.__name__}-{method}-{candidates}"
                    yield pytest.param(kernel, architecture, dtype, layout, depth, method, candidates, id=name)


# What a multiprocessor of the oldest devices of a family has room for, and what each block of it takes besides its own.
SHARED_MEMORY, RESERVED_SHARED_MEMORY, REGISTERS = 100 * 1_024, 1_024, 65_536


@pytest.mark.parametrize(
    ("kernel", "architecture", "dtype", "layout", "depth", "method", "candidates"), list(grid_kernels())
)
@slow_if(lambda architecture, dtype, layout: architecture != 90 or dtype != torch.bfloat16 or layout is not ALIGNED)
def test_cooperative_kernels(machine_code, kernel, architecture, dtype, layout, depth, method, candidates):
    config, binary = grid_kernel(kernel, architecture, dtype, layout, depth, method, candidates)
    code = machine_code(binary)
    # The same products as in the similarity pass: another instruction could round otherwise.
    assert bool(re.search(TENSOR_CORE[architecture], code)) == (dtype != torch.float32)
    assert not re.search(LOCAL_MEMORY, code)
    assert not (architecture == 90 and re.search(r"\bHMMA\.", code))
    assert_cooperative(binary, code, config)


def assert_cooperative(binary, code, config):
    assert registers(code) <= config.registers
    assert binary.metadata.shared <= config.shared_memory
    assert binary.metadata.launch_cooperative_grid
    # All programs have to be resident at once, or a barrier never ends.
    assert config.programs * config.num_warps * 32 * -(-registers(code) // 8) * 8 <= REGISTERS
    assert config.programs * (binary.metadata.shared + RESERVED_SHARED_MEMORY) <= SHARED_MEMORY
    # After a barrier, a program reads what others wrote from the cache that all share.
    assert re.search(r"\bATOMG\.E\.ADD\.STRONG\.GPU\b", code)
    assert "CCTL.IVALL" in code
    assert not re.search(r"\bLDG\.\S*CONSTANT", code)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("alignment", "depth"), [(8, 4_096), (8, 40), (1, 1_001), (1, 33)])
@slow_if(lambda architecture, depth: architecture != 90 or depth in (40, 33))
def test_similarities_of_two_tensors(machine_code, architecture, dtype, alignment, depth):
    config = configs.cross_similarity_config(dtype.itemsize, aligned=alignment > 1)
    kernel = compiled(
        kernels.cross_similarity_kernel,
        architecture,
        {"x": dtype, "y": dtype} | dict.fromkeys(("norm_x", "norm_y", "similarity"), torch.float32),
        {"ALIGNMENT": alignment} | base.tile_constants(config, depth),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    code = machine_code(kernel)
    # The same products as in the similarity pass: another instruction could round otherwise.
    assert bool(re.search(TENSOR_CORE[architecture], code)) == (dtype != torch.float32)
    assert not (architecture == 90 and re.search(r"\bHMMA\.", code))
    assert not re.search(LOCAL_MEMORY, code)
    assert registers(code) <= config.registers
    assert kernel.metadata.shared <= config.shared_memory


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", ["mmr", "idpruner"])
@slow_if(lambda architecture: architecture != 90)
def test_first_pick(machine_code, architecture, method):
    tensors = {"reciprocal_norm": torch.float32, "relevance": torch.float32, "scores": torch.float32}
    tensors |= {"state": torch.int32, "indices": torch.int64}
    constants = {"METHOD": method, "WITH_SCORES": True, "VARLEN": False, "plan": None}
    code = machine_code(compiled(kernels.first_pick_kernel, architecture, tensors, constants))
    assert not re.search(LOCAL_MEMORY, code)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@slow_if(lambda architecture: architecture != 90)
def test_row_norms(architecture, dtype):
    kernel = compiled(
        kernels.row_norm_kernel,
        architecture,
        {"x": dtype, "weight": torch.float64, "reciprocal_norm": torch.float32, "relevance": torch.float32},
        {"HAS_WEIGHT": True} | ALIGNED,
    )
    code = kernel.asm["sass"]
    assert re.search(r"\bLDG\.\S*128", code)
    assert not re.search(LOCAL_MEMORY, code)


@pytest.mark.parametrize("layout", [ALIGNED, UNALIGNED], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_row_norms_are_summed_by_pairs(layout, dtype):
    tensors = {"x": dtype, "weight": torch.float64, "reciprocal_norm": torch.float32, "relevance": torch.float32}
    plan = {} if "plan" in layout else {"plan": torch.int64}
    kernel = compiled(kernels.row_norm_kernel, 90, tensors | plan, {"HAS_WEIGHT": True} | layout)
    # Only a sum of two terms has one result in every layout.
    reduced = re.findall(r"tt.reduce\"\(.*?\}\) : \(tensor<([0-9x]+)xf32>", kernel.asm["ttir"], re.DOTALL)
    assert 2 ** len(reduced) == kernels.norms.NORM_BLOCK_D.value
    assert all(shape.split("x")[1] == "2" for shape in reduced)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@slow_if(lambda architecture: architecture != 90)
def test_plan(architecture):
    kernel = compiled(
        kernels.plan_kernel,
        architecture,
        {"cu_seqlens": torch.int32, "cu_k": torch.int32, "plan": torch.int64},
        {"UNIT_N": 64, "TRIANGULAR": True, "BLOCK_S": 128},
        **operators.PLAN_OPTIONS,
    )
    assert not re.search(LOCAL_MEMORY, kernel.asm["sass"])


def test_the_kernels_compile_for_gfx942():
    config = configs.similarity_config(2, 2_880, 4096, 80, aligned=True)
    target = GPUTarget("hip", "gfx942", 64)
    assert "v_mfma_f32" in similarity_kernel(config, target, torch.bfloat16, 4096, ALIGNED).asm["amdgcn"]


def test_every_row_of_the_table_is_reachable_and_has_a_reason():
    taken = {
        configs.similarity_config(size, count, depth, architecture, aligned)
        for size in (2, 4)
        for depth in (64, 65)
        for count in (1, 576, 1_536, 1_537, 2_880, configs.LARGEST_COUNT)
        for architecture in ARCHITECTURES
        for aligned in (True, False)
    }
    assert taken == set(configs.SIMILARITY)
    taken = {configs.cross_similarity_config(size, aligned) for size in (2, 4) for aligned in (True, False)}
    assert taken == set(configs.CROSS_SIMILARITY)
    taken = {configs.greedy_config(2**power) for power in range(4, 15)}
    assert taken == set(configs.GREEDY)
    taken = {
        configs.lazy_greedy_config(size, architecture, aligned)
        for size in (2, 4)
        for architecture in ARCHITECTURES
        for aligned in (True, False)
    }
    assert taken == set(configs.LAZY_GREEDY)
    taken = {configs.candidate_count(size, count) for size in (2, 4) for count in (1, 1_536, 1_537, 8_192, 8_193)}
    assert taken == {row.candidates for row in configs.CANDIDATE_COUNTS}
    tables = configs.SIMILARITY, configs.CROSS_SIMILARITY, configs.GREEDY, configs.LAZY_GREEDY, configs.CANDIDATE_COUNTS
    assert all(row.reason for table in tables for row in table)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("layout", "depth"), [(ALIGNED, 4_096), (UNALIGNED, 1_001)], ids=["aligned", "odd"])
@slow_if(lambda architecture, dtype, layout: architecture != 90 or dtype != torch.bfloat16 or layout is not ALIGNED)
def test_dpp(machine_code, architecture, dtype, layout, depth):
    config = configs.dpp_config(dtype.itemsize)
    tensors = dict.fromkeys(("reciprocal_norm", "relevance", "gains", "factor", "scores"), torch.float32)
    tensors |= dict.fromkeys(("packed_picks", "indices"), torch.int64) | dict.fromkeys(
        ("max_root_keys", "arrival_counter"), torch.int32
    )
    kernel = compiled(
        kernels.dpp_kernel,
        architecture,
        tensors | {"x": dtype} | ({} if "plan" in layout else {"plan": torch.int64}),
        base.tile_constants(config, depth) | {"WITH_SCORES": True} | layout,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **runtime.COOPERATIVE_OPTIONS,
    )
    code = machine_code(kernel)
    if layout is ALIGNED:
        assert re.search(r"\b(?:LDGSTS|LDG)\.\S*128", code)
    assert not re.search(LOCAL_MEMORY, code)
    assert_cooperative(kernel, code, config)
