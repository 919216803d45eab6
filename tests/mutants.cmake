# Deliberately broken variants of the GPU kernels, which the checks under imitation must find out
# (tests/mutants_test.cpp). Each is the kernel's source with one text replaced; the text must stand
# there exactly once, so that a variant cannot quietly become the original.

set(mutants_dir ${CMAKE_CURRENT_BINARY_DIR}/mutants)
set(mutants_table "")

# rehearse_mutant(NAME KERNEL FILE WHAT FROM TO [SHAPE]): KERNEL is gemm, gradient, cast or layer_X of
# kernels/layer_gpu/X.cu, FILE is
# relative to kernels/; WHAT says what is broken. Products are compiled and checked in one tile
# SHAPE (width, halves, cluster, lead) of one kind: a sixteenth of what the kernel has.
function(rehearse_mutant name kernel file what from to)
  set(shape "128, 1, 2, 2")
  if(kernel STREQUAL "gradient")
    set(shape "128, 1, 2, 0")
  endif()
  if(ARGC GREATER 6)
    set(shape "${ARGV6}")
  endif()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
               ${PROJECT_SOURCE_DIR}/kernels/${file})
  file(READ ${PROJECT_SOURCE_DIR}/kernels/${file} text)
  string(FIND "${text}" "${from}" first)
  string(FIND "${text}" "${from}" last REVERSE)
  if(first EQUAL -1 OR NOT first EQUAL last)
    message(FATAL_ERROR "mutant ${name}: its text must stand once in kernels/${file}:\n${from}")
  endif()
  string(REPLACE "${from}" "${to}" text "${text}")
  file(CONFIGURE OUTPUT ${mutants_dir}/${name}/kernels/${file} CONTENT "${text}" @ONLY)
  set(defines "#define REHEARSE_TARGET mutant_${name}\n")
  if(kernel MATCHES "^layer_(.*)$")
    set(source layer_gpu/${CMAKE_MATCH_1}.cu)
    set(entry "MUTANT_${kernel}(${name}, \"${what}\")")
  elseif(kernel STREQUAL "cast")
    set(source fp8_cast/fp8_cast.cu)
    set(entry "MUTANT_cast(${name}, \"${what}\")")
  else()
    string(REGEX REPLACE "([0-9]+), ([0-9]+), ([0-9]+), ([0-9]+)"
           "width == \\1 && halves == \\2 && cluster == \\3 && lead == \\4" wanted "${shape}")
    set(depth "!depth")
    if(kernel STREQUAL "gradient")
      set(depth "depth")
    endif()
    string(APPEND defines "#define REHEARSE_COMPILES_SHAPE(width, halves, cluster, lead, depth) "
           "(${wanted} && ${depth})\n")
    set(source fp8_gemm/fp8_gemm.cu)
    set(entry "MUTANT_${kernel}(${name}, \"${what}\", ${shape})")
  endif()
  file(CONFIGURE OUTPUT ${mutants_dir}/${name}.cpp CONTENT
       "${defines}#include \"kernels/${source}\"\n" @ONLY)
  add_library(mutant_${name} OBJECT ${mutants_dir}/${name}.cpp)
  target_include_directories(mutant_${name} PRIVATE ${mutants_dir}/${name} ${PROJECT_SOURCE_DIR})
  target_compile_options(mutant_${name} PRIVATE ${mutants_options})
  target_precompile_headers(mutant_${name} REUSE_FROM mutants_headers)
  target_link_libraries(rehearse_mutants INTERFACE mutant_${name} $<TARGET_OBJECTS:mutant_${name}>)
  set(mutants_table "${mutants_table}${entry}\n" PARENT_SCOPE)
endfunction()

# What all of them include and none of them changes is parsed once.
set(mutants_options -O1 -w -Wno-psabi)
file(CONFIGURE OUTPUT ${mutants_dir}/headers.cpp CONTENT "" @ONLY)
add_library(mutants_headers OBJECT ${mutants_dir}/headers.cpp)
target_include_directories(mutants_headers PRIVATE ${PROJECT_SOURCE_DIR})
target_compile_options(mutants_headers PRIVATE ${mutants_options})
target_precompile_headers(mutants_headers PRIVATE <algorithm> <string>
  ${PROJECT_SOURCE_DIR}/base/integers.h
  ${PROJECT_SOURCE_DIR}/kernels/fp8_cast/fp8_cast.h
  ${PROJECT_SOURCE_DIR}/kernels/fp8_gemm/fp8_gemm.h
  ${PROJECT_SOURCE_DIR}/kernels/ptx/arguments.h
  ${PROJECT_SOURCE_DIR}/kernels/ptx/imitation/instructions.h)

add_library(rehearse_mutants INTERFACE)
target_include_directories(rehearse_mutants INTERFACE ${mutants_dir})

set(gemm fp8_gemm/fp8_gemm.cuh)
rehearse_mutant(no_full_wait gemm ${gemm} "multiplies without waiting for the copies"
  "ptx::wait_barrier(ring.full(), ring.parity, \"full\");\n        const float row0" "const float row0")
rehearse_mutant(no_empty_wait gemm ${gemm} "copies over a stage that is still read"
  "ptx::wait_barrier(ring.empty(), ring.parity ^ 1, \"empty\")" "")
rehearse_mutant(wrong_empty_parity gemm ${gemm} "wrong phase bit of the producer"
  "ptx::wait_barrier(ring.empty(), ring.parity ^ 1, \"empty\")" "ptx::wait_barrier(ring.empty(), ring.parity, \"empty\")")
rehearse_mutant(wrong_full_parity gemm ${gemm} "wrong phase bit of the consumers"
  "ptx::wait_barrier(ring.full(), ring.parity, \"full\");\n        const float row0"
  "ptx::wait_barrier(ring.full(), ring.parity ^ 1, \"full\");\n        const float row0")
rehearse_mutant(parity_stays gemm ${gemm} "the phase bit does not flip when the ring comes round"
  "parity ^= 1;" "")
rehearse_mutant(no_product_wait gemm ${gemm} "reads sums while products are under way"
  "ptx::wait_products<0>();\n          ptx::keep(product);\n          if (h" "if (h")
rehearse_mutant(no_gradient_wait gradient ${gemm} "reads a gradient's sums while products are under way"
  "ptx::wait_products<0>();\n          ptx::keep(product);\n          if (h" "if (h")
rehearse_mutant(column_scale_off gradient ${gemm} "the scales of the lane's neighbours' columns"
  "static_cast<uint32_t>((8 * i + 2 * (lane % 4)) * 4)" "static_cast<uint32_t>((8 * i + 2 * (lane % 2)) * 4)")
rehearse_mutant(no_product_fence gemm ${gemm} "no fence before products"
  "ptx::fence_products();" "")
rehearse_mutant(keeps_accumulating gemm ${gemm} "carries a sum over into the next 128"
  "k > 0);" "true);")
rehearse_mutant(wrong_swizzle_out gemm ${gemm} "swizzles results by the wrong address bits"
  "at >> 7 & kSwizzleMask" "at >> 8 & kSwizzleMask")
rehearse_mutant(no_swizzle_in gemm fp8_gemm/fp8_gemm.cu "operands are copied without swizzle"
  "t.swizzle = 128;" "t.swizzle = 0;")
rehearse_mutant(tile_off_by_one gemm fp8_gemm/tiles.cuh "the last column of tiles twice, the first never"
  "tile.column = column * kTileN" "tile.column = (column + 1) * kTileN")
rehearse_mutant(scale_of_wrong_group gemm ${gemm} "the first expert's weight scales for all"
  "static_cast<int64_t>(tile.group) * blocks" "static_cast<int64_t>(0) * blocks")
rehearse_mutant(scale_of_next_row gemm ${gemm} "an activation's scale of the row below"
  "(own_row + 8) * 4" "(own_row + 9) * 4")
rehearse_mutant(split_off gemm ${gemm} "the edge between two weight scales 8 columns late"
  "split = (block + 1) * 128 - column" "split = (block + 1) * 128 - column + 8" "192, 1, 2, 2")
rehearse_mutant(edge_not_seen gemm ${gemm} "takes the wrong one of the edges it is compiled for"
  "split == kSplit" "split != kSplit" "160, 1, 2, 2")
rehearse_mutant(peer_not_counted gemm ${gemm} "a stage counts as free before the other block read it"
  "ptx::barrier_init(ring.empty(), S::kCluster * S::kMathWarps"
  "ptx::barrier_init(ring.empty(), S::kMathWarps")
rehearse_mutant(peer_not_told gemm ${gemm} "the other block is not told that a stage is free"
  "if (lane < S::kCluster) ptx::arrive_at_rank(ring.empty(), lane)"
  "if (lane == 0) ptx::arrive(ring.empty())")
rehearse_mutant(too_few_bytes gemm ${gemm} "expects the tiles' bytes and not the scales'"
  "ptx::arrive_expecting(ring.full(), S::kStageBytes)"
  "ptx::arrive_expecting(ring.full(), S::kBytesA + S::kBytesB)")
rehearse_mutant(no_async_fence gemm ${gemm} "results are stored before ordinary stores are visible"
  "ptx::fence_async_shared();" "")
rehearse_mutant(no_barrier_before_store gemm ${gemm} "results are stored before all warps wrote them"
  "ptx::fence_async_shared();\n        ptx::sync_named(1 + group, 128);"
  "ptx::fence_async_shared();")
rehearse_mutant(slot_not_free gemm ${gemm} "results overwrite a box that is still stored"
  "if (warp == 0 && ptx::elect_one()) ptx::wait_stores_read<S::kSlots - 1>();" "")
rehearse_mutant(ends_too_early gemm ${gemm} "ends while stores read shared memory"
  "if (warp == 0 && ptx::elect_one()) ptx::wait_stores_read<0>();" "")
rehearse_mutant(leaves_peer gemm ${gemm} "ends while the other block still copies and arrives here"
  "if constexpr (S::kCluster > 1) ptx::sync_cluster();" "")
rehearse_mutant(peer_not_ready gemm ${gemm} "uses the other block's barriers before they are made"
  "ptx::sync_cluster();\n  } else" "ptx::sync_block();\n  } else")
rehearse_mutant(no_barrier_fence gemm ${gemm} "copies complete on barriers they may not see yet"
  "ptx::fence_barrier_init();" "")
rehearse_mutant(everyone_stores gemm ${gemm} "128 threads store the same box"
  "if (warp == 0 && ptx::elect_one()) {\n          if constexpr (S::kDepth) {\n            ptx::add_tensor"
  "{\n          if constexpr (S::kDepth) {\n            ptx::add_tensor")
rehearse_mutant(reader_fences gemm ${gemm} "the storing thread fences, not those who wrote"
  "ptx::fence_async_shared();\n        ptx::sync_named(1 + group, 128);\n        if (warp == 0 && ptx::elect_one()) {"
  "ptx::sync_named(1 + group, 128);\n        if (warp == 0 && ptx::elect_one()) {\n          ptx::fence_async_shared();")
rehearse_mutant(operands_misaligned gemm ${gemm} "operands begin 512 bytes past a multiple of 1024"
  "static constexpr int kA = 0;" "static constexpr int kA = 512;")
rehearse_mutant(one_warp_gives_registers gemm ${gemm} "one warp of the producer's group gives up registers"
  "ptx::decrease_registers<24>();\n    if" "if (warp == S::kMathWarps) ptx::decrease_registers<24>();\n    if")
rehearse_mutant(second_never_begins gemm ${gemm} "with few stages the second warp group waits for ever"
  "if (lead > 0) let_second_begin();" "")
rehearse_mutant(first_tokens_for_all gradient fp8_gemm/tiles.cuh "every expert's gradient from the first tokens"
  "tile.k_begin = kDepth ? begin_ : 0" "tile.k_begin = 0")
rehearse_mutant(idle_tile_stored gemm fp8_gemm/tiles.cuh "rows behind a group are written"
  "tile.idle = m * kTileM >= (kDepth ? a_.m : rows_)" "tile.idle = false")
rehearse_mutant(transposed_too_early cast fp8_cast/fp8_cast.cuh "transposed codes are read before all are written"
  "ptx::sync_block();\n  write_transposed<kCastColumns>" "write_transposed<kCastColumns>")
rehearse_mutant(half_the_maximum cast fp8_cast/fp8_cast.cuh "the largest of half a row"
  "ptx::shuffle_xor(odd ? even : uneven, 4)" "odd ? even : uneven")
rehearse_mutant(padding_read cast fp8_cast/fp8_cast.cuh "padding tokens are cast as they are"
  "if (row + i < limit.values && column < c.k)" "if (row + i < limit.written && column < c.k)")

rehearse_mutant(no_wait_for_readers layer_cross_entropy layer_gpu/rows.cuh
  "the second reduction overwrites what the first one's readers still read"
  "ptx::sync_block();  // the last call's readers are done" "")
rehearse_mutant(partial_read_early layer_rmsnorm layer_gpu/rows.cuh "warps' sums are read before they are there"
  "own);\n  ptx::sync_block();" "own);")
rehearse_mutant(mean_over_stride layer_rmsnorm layer_gpu/rmsnorm.cuh "the mean of more columns than are normed"
  "sum_over_block(squares) / static_cast<float>(n.width)" "sum_over_block(squares) / static_cast<float>(n.x_stride)")
rehearse_mutant(chunk_overruns layer_rmsnorm layer_gpu/rmsnorm.cuh "the last chunk goes beyond the last row"
  "first + kRmsNormChunk < n.rows ? first + kRmsNormChunk : n.rows" "first + kRmsNormChunk")
rehearse_mutant(gain_not_added_to layer_rmsnorm layer_gpu/rmsnorm.cuh "the gain's gradient is overwritten"
  "float sum = ptx::load_own(n.d_gain + column);" "float sum = 0;")
rehearse_mutant(silu_of_up layer_swiglu layer_gpu/swiglu.cuh "the gate's gradient without the sigmoid's own"
  "(1 + gate * (1 - sig))" "(1 + gate)")
rehearse_mutant(every_row layer_swiglu layer_gpu/rows.cuh "padding is taken for rows"
  "if (row < padded) return row < own;" "if (row < padded) return true;")
rehearse_mutant(padding_not_counted layer_swiglu layer_gpu/rows.cuh "experts' rows stand without padding"
  "(own + kRowsPadded - 1) / kRowsPadded * kRowsPadded" "own")
rehearse_mutant(turns_one_way layer_rope layer_gpu/rope.cuh "backward turns as forward does"
  "r.turn == Turn::kForward ? angle : -angle" "angle")
rehearse_mutant(halves_as_neighbours layer_rope layer_gpu/rope.cuh "one way of pairing alone"
  "r.pairs == RopePairs::kHalves" "false")
rehearse_mutant(no_target_counts layer_cross_entropy layer_gpu/cross_entropy.cuh "tokens without a target have a gradient"
  "target < 0 ? 0 : d" "d")
rehearse_mutant(every_occurrence layer_elements layer_gpu/elements.cuh "each of a token's occurrences writes its row"
  "if (max_over_block(seen) > 0) return;" "")
rehearse_mutant(bad_steps_applied layer_elements layer_gpu/elements.cuh "a step that found no room is applied"
  "if (!applies) return;" "")
rehearse_mutant(gaps_updated layer_elements layer_gpu/elements.cuh "what is between segments is updated"
  "|| i < ptx::load_global(&a.segments[low].begin)" "")
rehearse_mutant(chunks_from_the_first layer_experts layer_gpu/experts.cuh "every chunk gives an expert's first rows"
  "for (int c = 1; c <= chunk; ++c) next +=" "for (int c = 1; c < chunk; ++c) next +=")
rehearse_mutant(no_padding_marked layer_experts layer_gpu/experts.cuh "padding is not told"
  "row < padded; ++row) ptx::store_global" "row < first; ++row) ptx::store_global")
rehearse_mutant(overflow_unseen layer_experts layer_gpu/experts.cuh "choices without room are not counted"
  "lost += count - here;" "")
rehearse_mutant(rows_scales_layer layer_experts layer_gpu/experts.cuh "scales are read by the rows' stride"
  "p.x_scales + t * p.x_scale_stride + token" "p.x_scales + t * p.row_scale_stride + token")
rehearse_mutant(tile_read_early layer_product layer_gpu/product.cuh "a tile is multiplied before all of it is there"
  "ptx::sync_block();\n    const int depth" "const int depth")
rehearse_mutant(tile_overwritten layer_product layer_gpu/product.cuh "the next tile overwrites one that is still read"
  "    ptx::sync_block();\n  }\n  for (int i = 0; i < 2; ++i) {" "  }\n  for (int i = 0; i < 2; ++i) {")
rehearse_mutant(expert_of_another layer_product layer_gpu/product.cuh "all rows are multiplied by the first expert's matrix"
  "p.b_fp32_of + range.expert" "p.b_fp32_of")
rehearse_mutant(gradient_of_padding layer_product layer_gpu/product.cuh "an expert's gradient takes padding rows in"
  "k_end = range.first + range.rows;" "k_end = range.first + (range.rows + 127) / 128 * 128;")
rehearse_mutant(edge_columns layer_product layer_gpu/product.cuh "columns behind the last are written"
  "if (row >= rows_end || column >= p.n) continue;" "if (row >= rows_end) continue;")
rehearse_mutant(next_head_early layer_attention layer_gpu/attention.cuh "the next head's probabilities overwrite these"
  "ptx::sync_block();  // before the next head's" "")
rehearse_mutant(sees_the_next layer_attention layer_gpu/attention.cuh "queries of the output see one key less"
  "const int64_t first = token + 1 - seen;\n  float most" "const int64_t first = token + 2 - seen;\n  float most")
rehearse_mutant(heads_not_grouped layer_attention layer_gpu/attention.cuh "every head has the first key head"
  "return static_cast<int>(head) / per_key;" "return 0;")
rehearse_mutant(last_head_alone layer_attention layer_gpu/attention.cuh "of a group's heads the last one's gradient"
  "head == of * h.per_key ? 0 : ptx::load_shared<float>(value_at(sums + c))" "0")
rehearse_mutant(delta_left_out layer_attention layer_gpu/attention.cuh "the softmax's gradient without its mean"
  "p * (dp - ptx::load_global(a.delta + row)) * h.scale" "p * dp * h.scale")
rehearse_mutant(chosen_twice layer_experts layer_gpu/experts.cuh "an expert that was chosen stays a choice"
  "ptx::store_shared(choices + best.index * 4, -INFINITY);" "{}")
rehearse_mutant(one_of_a_group layer_experts layer_gpu/experts.cuh "a group's score is its best alone"
  "two ? best + second : best" "best")
rehearse_mutant(groups_unlimited layer_experts layer_gpu/experts.cuh "experts of all groups are chosen"
  "if (g.shape.kept_groups < g.shape.groups) limit_groups" "if (false) limit_groups")
rehearse_mutant(weights_not_normed layer_experts layer_gpu/experts.cuh "weights are scores"
  "(g.shape.normalize ? sum : 1)" "1")
rehearse_mutant(once_per_choice layer_exchange layer_gpu/exchange.cuh "a token goes to the part of its last choice alone"
  "goes = goes || (slot" "goes = (slot")
rehearse_mutant(no_expert_goes layer_exchange layer_gpu/exchange.cuh "choices of no expert go to the first part"
  "(slot >= 0 && member >= 0" "(member >= 0")
rehearse_mutant(rows_without_padding layer_exchange layer_gpu/exchange.cuh "a map's parts stand without padding"
  "first += padded_to_tile(ptx::load_global(rows + p));" "first += ptx::load_global(rows + p);")
rehearse_mutant(stale_slots layer_exchange layer_gpu/exchange.cuh "rows that nobody sent keep the slots they had"
  "ptx::store_global(g.slots + to * active + k, -1);" "{}")
rehearse_mutant(slots_of_others layer_exchange layer_gpu/exchange.cuh "slots of other members are taken for its own"
  "if (slot < 0 || slot >= g.own_slots) slot = -1;" "if (slot < 0) slot = -1;")
rehearse_mutant(lost_rows_uncounted layer_exchange layer_gpu/exchange.cuh "rows without room are not counted"
  "total > capacity) {" "total > capacity + 1000) {")
rehearse_mutant(own_rows_travel layer_exchange layer_gpu/exchange.cuh "what a member sends itself is counted"
  "if (p == me) continue;" "")
rehearse_mutant(rows_of_the_first layer_exchange layer_gpu/exchange.cuh "rows of peers before are not passed over on the way back"
  "row += ptx::load_global(s.peer[p].rows + j);" "row += 0 * p;")
rehearse_mutant(sums_unrounded layer_exchange layer_gpu/exchange.cuh "what travels in BF16 is not rounded"
  "s.round_in && c < rounded ? through_bf16(x) : x" "x")
rehearse_mutant(exact_rounded layer_exchange layer_gpu/exchange.cuh "columns that travel exactly are rounded"
  "s.round_in && c < rounded ?" "s.round_in ?")
rehearse_mutant(first_member_alone layer_exchange layer_gpu/exchange.cuh "BF16 sums are of the last member"
  "m == 0 ? load(x, i) : sum + load(x, i)" "load(x, i)")
rehearse_mutant(tiles_of_others layer_codes layer_gpu/codes.cuh "a tile's largest is its first lanes' alone"
  "for (int mask = 16; mask > 0; mask /= 2) {\n    amax" "for (int mask = 4; mask > 0; mask /= 2) {\n    amax")
rehearse_mutant(odd_column_lost layer_codes layer_gpu/codes.cuh "the last of an odd number of columns is dropped"
  "column + 1 < columns ? 3 : 2" "column + 1 < columns ? 3 : 0")
rehearse_mutant(upper_nibble layer_codes layer_gpu/codes.cuh "of two packed codes the second loses its lower bits"
  "low >> 4 | high << 4" "high << 4")
rehearse_mutant(small_flushed layer_codes layer_gpu/codes.cuh "E5M6's small values are cut off"
  "0x1p20f + 0x1p23f) & 0x7f" "0x1p20f + 0x1p23f) & 0x40")
rehearse_mutant(scale_of_padding layer_codes layer_gpu/codes.cuh "rows that share a scale are the block's, padding too"
  "if (block < blocks) return cut(own - block * kBlock);" "if (block < blocks) return kBlock;")
rehearse_mutant(square_by_column layer_codes layer_gpu/codes.cuh "columns of a block have scales of their own"
  "if (r.shared) amax = max_over_block(amax);" "")

file(CONFIGURE OUTPUT ${mutants_dir}/mutants.inc CONTENT "${mutants_table}" @ONLY)
