#ifndef QWENSERVE_KERNELS_CPU_ISA_LINEAR_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_LINEAR_INL_H_

// Matrix product over packed panels, written against the tile of the including file:
//   using F32, Bf16, F16: element formats with `Storage`
//   TileRows<Format, panels>(n, a, lda, b, ldb, panel_stride, k, init, bias, c, ldc)
//   ExpandPanel<Format>(b, count, out)
// Included once per instruction set, inside an anonymous namespace (see kernel_table.h).

// From here on a panel is widened to float once and used for many rows.
constexpr int64_t kExpandFromRows = 13;

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

// Copies the valid columns of a [rows][columns] tile and adds the bias.
void StoreTile(const float* tile, int64_t rows, int64_t tile_stride, int64_t columns,
               const float* bias, float* out, int64_t out_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      const float value = tile[r * tile_stride + c];
      out[r * out_stride + c] = bias == nullptr ? value : value + bias[c];
    }
  }
}

// `panels` panels side by side for up to 12 rows, straight from the packed weight. A single row has
// few independent sums, hence several panels at once; they also give the memory system several
// streams.
template <typename Format, int panels>
void LinearDirectGroup(const LinearArgs& args, int64_t panel) {
  const int64_t k = args.in_features;
  const int64_t column = panel * kPanelColumns;
  const int64_t columns = Min(panels * kPanelColumns, args.out_features - column);
  const auto* b = static_cast<const typename Format::Storage*>(args.weight) + column * k;
  const float* bias = args.bias == nullptr ? nullptr : args.bias + column;
  float* out = args.out + column;
  if (columns == panels * kPanelColumns) {
    TileRows<Format, panels, true>(args.rows, args.x, k, b, kPanelColumns, kPanelColumns * k, k,
                                   false, bias, out, args.out_features);
    return;
  }
  float tile[(kExpandFromRows - 1) * panels * kPanelColumns];
  TileRows<Format, panels, true>(args.rows, args.x, k, b, kPanelColumns, kPanelColumns * k, k,
                                 false, nullptr, tile, panels * kPanelColumns);
  StoreTile(tile, args.rows, panels * kPanelColumns, columns, bias, out, args.out_features);
}

template <typename Format>
void LinearDirect(const LinearArgs& args, int64_t panel_begin, int64_t panel_end) {
  int64_t panel = panel_begin;
  if (args.rows == 1) {
    for (; panel + 4 <= panel_end; panel += 4) LinearDirectGroup<Format, 4>(args, panel);
  }
  if (args.rows == 2) {
    for (; panel + 3 <= panel_end; panel += 3) LinearDirectGroup<Format, 3>(args, panel);
  }
  if (args.rows <= 3) {
    for (; panel + 2 <= panel_end; panel += 2) LinearDirectGroup<Format, 2>(args, panel);
  }
  for (; panel < panel_end; ++panel) LinearDirectGroup<Format, 1>(args, panel);
}

// Many rows: row blocks, then depth blocks, then panels; out holds the running sums.
template <typename Format>
void LinearBlocked(const LinearArgs& args, int64_t panel_begin, int64_t panel_end, float* scratch) {
  const int64_t k = args.in_features;
  float* expanded = scratch;
  float* partial = scratch + kLinearDepthBlock * kPanelColumns;  // sums of an incomplete last panel
  // Nearly equal blocks, in whole tiles of 6 or 12 rows.
  const int64_t row_blocks = (args.rows + kLinearRowBlock - 1) / kLinearRowBlock;
  const int64_t row_block = ((args.rows + row_blocks - 1) / row_blocks + 11) / 12 * 12;
  for (int64_t row = 0; row < args.rows; row += row_block) {
    const int64_t rows = Min(row_block, args.rows - row);
    for (int64_t depth = 0; depth < k; depth += kLinearDepthBlock) {
      const int64_t depth_count = Min(kLinearDepthBlock, k - depth);
      const bool last = depth + depth_count == k;
      const float* x = args.x + row * k + depth;
      for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
        const int64_t column = panel * kPanelColumns;
        const int64_t columns = Min(kPanelColumns, args.out_features - column);
        ExpandPanel<Format>(static_cast<const typename Format::Storage*>(args.weight) +
                                (panel * k + depth) * kPanelColumns,
                            depth_count, expanded);
        const float* bias = last && args.bias != nullptr ? args.bias + column : nullptr;
        float* out = args.out + row * args.out_features + column;
        if (columns == kPanelColumns) {
          TileRows<F32, 1, false>(rows, x, k, expanded, kPanelColumns, 0, depth_count, depth != 0,
                                  bias, out, args.out_features);
        } else {
          TileRows<F32, 1, false>(rows, x, k, expanded, kPanelColumns, 0, depth_count, depth != 0,
                                  nullptr, partial, kPanelColumns);
          if (last) {
            StoreTile(partial, rows, kPanelColumns, columns, bias, out, args.out_features);
          }
        }
      }
    }
  }
}

template <typename Format>
void LinearPanels(const LinearArgs& args, int64_t panel_begin, int64_t panel_end, float* scratch) {
  if (args.rows < kExpandFromRows) {
    LinearDirect<Format>(args, panel_begin, panel_end);
  } else {
    LinearBlocked<Format>(args, panel_begin, panel_end, scratch);
  }
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_LINEAR_INL_H_
