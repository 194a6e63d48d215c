"""Meeting points with other libraries; nothing here is imported unless asked for."""
